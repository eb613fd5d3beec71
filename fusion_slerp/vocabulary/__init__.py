"""Which parent's row feeds each row of the child's embedding and head, and which tokenizer goes with it.

`tokens` reads a folder's tokens; `child_tokenizer` decides on the child's (a parent's files, or a
union made by `union`); `rows` maps its rows to the parents'; `special_tokens` keeps the ids in the
configs true. `alignment` is the door: the four of them in turn.
"""
