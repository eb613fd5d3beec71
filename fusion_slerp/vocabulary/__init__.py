"""Which model's row feeds each row of the merged model's embedding and head, and which tokenizer fits them.

`tokens` reads a folder's tokens, numbered as their class loads them (`tokenizer_classes`), and `pipeline` how
they cut a text; `tokenizer_choice` decides on the merged model's: the files of one folder (`child_tokenizer`,
`chat_templates`), or a union made by `new_tokens` and written by `rewritten_files`; `renamed` knows reserved
tokens under their new names. `rows` maps its rows to the models', `overrides` changes single ones;
`special_tokens` keeps the ids in the configs correct. `alignment` is the entry point: it runs these in turn,
with the warnings from `remarks` and `differences`.
"""
