"""`plcourse doctor`: is everything ready for a long run, and what mends what is not?"""
