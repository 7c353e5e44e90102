"""The numbers that four-bit codes of floating point stand for.

NF4: the quantiles of a normal distribution, Dettmers et al. 2023 (QLoRA), appendix E. FP4: one bit of sign, then the
values of bitsandbytes (`create_fp4_map` in its functional.py), over their largest. E2M1: the Open Compute Project's MX
specification 1.0, table 5.
"""

import numpy as np

NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
_FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / 12
FP4 = np.concatenate([_FP4, -_FP4])
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([_E2M1, -_E2M1])
