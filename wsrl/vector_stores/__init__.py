"""Indexes whose vectors lie in a vector store: Milvus, a file of Milvus Lite, or Qdrant.

`wsrl.Index.open` and `wsrl.Index.build` take the address of one in place of a folder:

    milvus://host:19530/NAME     a server; NAME, which may be left out, sets several indexes of one server apart
    milvus:///path/zoo.db        a file of Milvus Lite; so does a path that ends in .db
    qdrant://host:6333/NAME      a server
    qdrant:///path/folder        a folder of Qdrant's own, in this process

MILVUS_TOKEN and QDRANT_API_KEY hold what a server wants to see, if anything; QDRANT_URL_SCHEME and MILVUS_URL_SCHEME
are `https` for one that is reached so. Such an index adds, removes, searches and lists its ids as one in a folder does;
`StoreIndex` says what differs.
"""
