"""Embedding on many machines: an Apache Beam pipeline that goes from names of checkpoints to an index.

    names -> listed, each with what tells that it has not changed      `listing`, `hub`
          -> identified by their content, before any is downloaded     `hub`, `wsrl.search.file_identity`
          -> without those that an earlier run has embedded
          -> grouped by architecture, from headers alone               `headers`
          -> embedded, a batch after the other                         `stages`
          -> parts of Parquet                                          `parts`
          -> an index, made by one process at the end                  `last_step`

The parts are the truth: each is written whole or not at all, and none is changed. A run that was killed is gone on with
by the same command, which embeds what the parts do not hold. `beam` is the command.
"""
