"""Which model's row feeds each row of the merged model's embedding and head, and which tokenizer fits them.

`tokens` reads a folder's tokens; `tokenizer_choice` decides on the merged model's: the files of one folder
(`child_tokenizer`), or a union made by `new_tokens`; `rows` maps its rows to the models', `overrides` changes
single ones; `special_tokens` keeps the ids in the configs true. `alignment` is the door: these in turn, with
what `remarks` says of them.
"""
