"""Wire types and tables that server and command line share."""
