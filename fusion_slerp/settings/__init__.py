"""Every option of a merge, declared once, and the forms that its values take."""
