/* Rounding column by column, each error compensated by the columns that follow (OBQ, Frantar and Alistarh 2022, in the
 * order-independent form of GPTQ, Frantar et al. 2022). */
#ifndef QB_QUANT_GPTQ_H
#define QB_QUANT_GPTQ_H

#include "quant/rounding_problem.h"

/* Chooses codes (R, K) for given grids. With H^{-1} = U^T U and A = M M^T, M = U^{-1} upper triangular, the error of a
 * row is |M^T e|^2, whose i-th component involves e_1..e_i only: column i is rounded to what makes it smallest, which
 * is the published update without an inverse. With `neighbours` a weight only moves to one of the two codes next to
 * it (adaround's set), else to any code. losses (R): |M^T e|^2 = qb_rounding_objectives, up to rounding. */
void qb_gptq(const qb_rounding *rounding, const qb_grid *grids, bool neighbours, int32_t *codes, double *losses);

#endif
