"""The numbers and options of TFLite's operators.

From the schema: https://github.com/tensorflow/tensorflow, `tensorflow/compiler/mlir/lite/schema/schema.fbs`.
"""

from collections.abc import Mapping

from wsrl.readers.flatbuffer import Table

_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION
LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH
CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE
BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM
ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR
ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE
RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND
COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE
HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE
BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1
UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR
RIGHT_SHIFT
"""
OPERATORS = _NAMES.split()
CUSTOM = OPERATORS.index("CUSTOM")
ENUMERATIONS = {
    "activation": ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT"),
    "padding": ("SAME", "VALID"),
    "mode": ("REFLECT", "SYMMETRIC"),
}

# Fields of a table of options, in order: name, `struct` layout or enumeration, default.
_ACTIVATION, _PADDING = ("activation", "activation"), ("padding", "padding")
_STRIDES = (("stride_w", "i"), ("stride_h", "i"))
_SAMPLING = (("align_corners", "?"), ("half_pixel_centers", "?"))
_DILATIONS = (("dilation_w", "i", 1), ("dilation_h", "i", 1))
OPTIONS: Mapping[int, tuple[tuple, ...]] = {  # by the number of the kind of table
    1: (_PADDING, *_STRIDES, _ACTIVATION, *_DILATIONS),  # Conv2DOptions
    2: (_PADDING, *_STRIDES, ("depth_multiplier", "i"), _ACTIVATION, *_DILATIONS),  # DepthwiseConv2DOptions
    5: (_PADDING, *_STRIDES, ("filter_width", "i"), ("filter_height", "i"), _ACTIVATION),  # Pool2DOptions
    7: (_ACTIVATION,),  # RNNOptions
    8: (_ACTIVATION, ("weights_format", "b"), ("keep_num_dims", "?")),  # FullyConnectedOptions
    9: (("beta", "f"),),  # SoftmaxOptions
    10: (("axis", "i"), _ACTIVATION),  # ConcatenationOptions
    11: (_ACTIVATION,),  # AddOptions
    12: (_ACTIVATION,),  # L2NormOptions
    14: (_ACTIVATION,),  # LSTMOptions
    15: (("new_height", "i"), ("new_width", "i"), *_SAMPLING),  # ResizeBilinearOptions
    17: (("new_shape", "vector"),),  # ReshapeOptions
    19: (("block_size", "i"),),  # SpaceToDepthOptions
    21: (_ACTIVATION,),  # MulOptions
    23: (("axis", "i"), ("batch_dims", "i")),  # GatherOptions
    27: (("keep_dims", "?"),),  # ReducerOptions
    28: (_ACTIVATION,),  # SubOptions
    29: (_ACTIVATION,),  # DivOptions
    30: (("squeeze_dims", "vector"),),  # SqueezeOptions
    31: (("time_major", "?"), _ACTIVATION),  # SequenceRNNOptions
    32: tuple(
        (f"{name}_mask", "i") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    ),  # StridedSlice
    35: (("num_splits", "i"),),  # SplitOptions
    49: (_PADDING, *_STRIDES, _ACTIVATION),  # TransposeConvOptions
    59: (("values_count", "i"), ("axis", "i")),  # PackOptions
    64: (("num", "i"), ("axis", "i")),  # UnpackOptions
    71: (_ACTIVATION, ("cell_clip", "f"), ("proj_clip", "f"), ("time_major", "?")),  # UnidirectionalSequenceLSTMOptions
    74: _SAMPLING,  # ResizeNearestNeighborOptions
    75: (("alpha", "f"),),  # LeakyReluOptions
    77: (("mode", "mode"),),  # MirrorPadOptions
    79: (("num_splits", "i"),),  # SplitVOptions
    94: (("block_size", "i"),),  # DepthToSpaceOptions
    101: (("adj_x", "?"), ("adj_y", "?")),  # BatchMatMulOptions
    106: (  # Conv3DOptions
        *(_PADDING, ("stride_d", "i"), *_STRIDES, _ACTIVATION),
        *(("dilation_d", "i", 1), *_DILATIONS),
    ),
    115: (("approximate", "?"),),  # GeluOptions
}
LONGEST = 64  # entries of a vector among the options


def operator_name(code: int) -> str:
    """Returns the name of a built-in operator, BUILTIN_n for one that is not known."""
    return OPERATORS[code] if 0 <= code < len(OPERATORS) else f"BUILTIN_{code}"


def read_options(kind: int, table: Table | None) -> dict[str, object]:
    """Returns the options of an operator as plain values; none if the kind of table is not known.

    Raises:
      FlatBufferError: an offset leads out of the file.
    """
    result: dict[str, object] = {}
    if table is None:
        return result
    for place, (name, layout, *default) in enumerate(OPTIONS.get(kind, ())):
        if layout == "vector":
            result[name] = table.array(place, "<i4")[:LONGEST].tolist()
        elif layout in ENUMERATIONS:
            names, value = ENUMERATIONS[layout], table.integer(place, "<b")
            result[name] = names[value] if 0 <= value < len(names) else f"UNKNOWN_{value}"
        else:
            result[name] = table.number(place, f"<{layout}", *(default or [False if layout == "?" else 0]))
    return result
