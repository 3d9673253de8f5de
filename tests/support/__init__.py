"""Helpers that several folders of tests share: stand-ins for data sets, services and models, a family's tests."""
