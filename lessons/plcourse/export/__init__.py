"""Lesson 17: exported models that prove they equal the trained one."""
