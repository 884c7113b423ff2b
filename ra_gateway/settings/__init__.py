"""What the settings in a configuration file may be, for the tables of every room that has some."""
