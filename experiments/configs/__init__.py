"""One module for each study; its CONFIG is the study, its docstring says what it takes and gives."""
