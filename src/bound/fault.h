/* Planted mistakes, for tests that show that the soundness check notices them. Always QB_FAULT_NONE outside tests. */
#ifndef QB_BOUND_FAULT_H
#define QB_BOUND_FAULT_H

typedef enum qb_fault {
  QB_FAULT_NONE,
  QB_FAULT_SWAPPED_RANGES,    /* order A reads the range of x' where it needs that of x, and B the other way round */
  QB_FAULT_NO_BIAS,           /* |b - b'| is left out */
  QB_FAULT_NO_WEIGHT_CHANGE,  /* the |W - W'| term is left out */
  QB_FAULT_NO_CLIP_CHANGE,    /* two clips with different limits count as one */
  QB_FAULT_NO_PAD,            /* zero padding is not in the range of the inputs */
  QB_FAULT_NO_GAMMA,          /* sums in float32 without their rounding */
  QB_FAULT_MUL_ONE_SIDED,     /* u v - u' v' bounded with u and v alone */
  QB_FAULT_SOFTMAX_QUARTER,   /* slope 1/4 instead of 1/2 */
  QB_FAULT_NO_ROUNDING_STEP,  /* a quantizer without its half step */
  QB_FAULT_SHORT_RESIDUAL,    /* an Add that takes the larger error instead of the sum */
  QB_FAULT_NO_OPERAND_CHANGE, /* constant operands that differ count as equal */
  QB_FAULT_EDGE_INVERTED,     /* elementwise: the parts that W and W' have alone are exchanged (S inverted) */
  QB_FAULT_EDGE_SWAPPED,      /* elementwise: a layer reads a' where it needs a, and the other way round */
  QB_FAULT_NO_SINGLE_GAMMA,   /* elementwise: float32 sums without their rounding */
  QB_FAULT_NO_SUBNORMAL,      /* elementwise: products that underflow count as zero, as flush-to-zero would have it */
  QB_FAULT_NO_EVALUATION,     /* float32 evaluation counts as exact although its rounding was asked for */
  QB_FAULT_ONE_EVALUATION,    /* what float32 does to the original is left out of sums and norms */
  QB_FAULT_NO_EXPONENT,       /* elementwise: numbers are scaled without remembering by how much */
  QB_FAULT_MEAN_UP,           /* two_stage: the paths of geometric means are rounded up */
  QB_FAULT_NO_SIGN_CHECK,     /* two_stage: weights may change their sign */
  QB_FAULT_FIRST_L2,
  QB_FAULT_SHORT_TORUS = QB_FAULT_FIRST_L2, /* a torus as small as the image: taps wrap around */
  QB_FAULT_NO_SPREAD_CHANGE,                /* sigma(dW) H is left out */
  QB_FAULT_NO_CENTRE_CHANGE,                /* ||dW c + db|| is left out */
  QB_FAULT_GATE_WITHOUT_SLACK,              /* the centred gate without ||W2 T|| ||T^-1 W1|| / 2 */
  QB_FAULT_GATE_DROPS_FIRST,                /* the change of the first layer of a window is not passed on */
  QB_FAULT_ROW_NORM_OF_ORIGINAL,            /* the last layer without the rows of dW */
  QB_FAULT_SCALE_WITHOUT_INVERSE,           /* T^-1 is forgotten on the output of a layer */
  QB_FAULT_SKIP_UNWEIGHTED,                 /* the shortcut of a residual block without T^-1 and T */
  QB_FAULT_SUM_KEEPS_WEIGHTS,               /* a summand with weights of its own counts as one with those of the sum */
  QB_FAULT_ROW_UNWEIGHTED,                  /* rows of the last layer without T */
  QB_FAULT_COARSE_GRID,                     /* Gram matrices interpolated from too few points */
  QB_FAULT_NO_SINGLE_CHOLESKY,              /* a factorisation in float32 that counts as exact */
  QB_FAULT_FIRST_INTERVAL,
  QB_FAULT_SLOPE_OF_ORIGINAL = QB_FAULT_FIRST_INTERVAL, /* ReLU slopes from the range of x alone */
  QB_FAULT_INTERVAL_NO_WEIGHT_CHANGE,                   /* (W' - W) x is left out */
  QB_FAULT_INTERVAL_HALF_STEP,                          /* a quantizer that is thought to be exact */
  QB_FAULT_PRODUCT_OTHER_CENTRE,                        /* product: distances of intervals from their own middle */
  QB_FAULT_COUNT
} qb_fault;

extern qb_fault qb_bound_fault;

/* The same for the backward relaxation. */
typedef enum qb_backward_fault {
  QB_BACKWARD_FAULT_NONE,
  QB_BACKWARD_FAULT_SWAPPED_SIGNS, /* the line below where the one above belongs */
  QB_BACKWARD_FAULT_NO_BIAS,       /* b' - b is left out */
  QB_BACKWARD_FAULT_NO_CHANGE,     /* D (W' - W) is left out */
  QB_BACKWARD_FAULT_OLD_WEIGHTS,   /* D W instead of D W' */
  QB_BACKWARD_FAULT_NO_HALF_STEP,  /* a quantizer without its half step */
  QB_BACKWARD_FAULT_NO_CLAMP,      /* a quantizer that never saturates */
  QB_BACKWARD_FAULT_FLOAT,         /* coefficients rounded to float32 and no gamma for it */
  QB_BACKWARD_FAULT_NARROWED,      /* the last element that planes let through is left out */
  QB_BACKWARD_FAULT_PATCH,         /* the last column of a form's patch over a convolution is left out */
  QB_BACKWARD_FAULT_TANGENT,       /* a plane that was turned keeps the constant of the one at the centre */
  QB_BACKWARD_FAULT_EVALUATION,    /* what float32 does to layers of the original is left out of forms */
  QB_BACKWARD_FAULT_COUNT
} qb_backward_fault;

extern qb_backward_fault qb_backward_fault_planted;

/* The same for cuts across neurons. */
typedef enum qb_cut_fault {
  QB_CUT_FAULT_NONE,
  QB_CUT_FAULT_ONE_SIDED,    /* the lower side ends a little below the cut */
  QB_CUT_FAULT_HALF_SPACE,   /* the half space over the input is smaller than the side it stands for */
  QB_CUT_FAULT_DROPPED_LEAF, /* the last leaf of a tree does not count */
  QB_CUT_FAULT_COUNT
} qb_cut_fault;

extern qb_cut_fault qb_cut_fault_planted;

#endif
