"""Several processes, on one machine or many, make one merged model together.

They are the ranks of a job that Lightning Fabric, torchrun or SLURM has started. All hold the same plan. Each
makes some of the weight files; rank 0 keeps the journal, writes what stands next to the weights, and
publishes. They exchange nothing but short messages, through torch's rendezvous store.
"""
