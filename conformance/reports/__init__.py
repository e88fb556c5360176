"""What a Report looks like: on a terminal (matrix), for CI servers (junit) and as one page (html)."""
