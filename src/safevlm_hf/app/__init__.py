"""`safevlm app`: a page on which a visitor shows a picture, asks, and sees verdict, reasons and two answers.

Nothing heavy is imported here: import the modules by their own names. Only `page` and `server` need gradio.
"""
