"""Pages, plots and tables for people, laid out by the templates beside this file. They know figures, verdicts and
pictures, and not who measured them."""
