"""`plcourse compare`: are these arms different, as far as their runs can tell?"""
