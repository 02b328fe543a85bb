"""Looking at a data set: in words, as a contact sheet, as a page."""
