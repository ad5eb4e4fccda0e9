"""Where rows come from: a data function, arrays in an .npz, tables in CSV and Parquet files, batches of others.

    load      the job's `Dataset`, whatever its source: the only way in
    files     locations, local or s3://, and the files below them
    npz       arrays in a file
    tables    pieces of a table: row groups of Parquet, runs of lines of CSV
    columns   from a piece's columns to inputs, labels, weights and groups, and what is wrong with them
    scan      the look at all pieces before the first is used: kinds, categories, numbers of rows
    stream    training rows that are read anew each epoch, in a shuffled order and bounded memory
    opening   the first reading of such rows
    memory    how much of rows may be in memory
    batches   tf.data and PyDataset, taken over into arrays

None of them imports Keras or TensorFlow, and pyarrow is imported where a file is first read.
"""
