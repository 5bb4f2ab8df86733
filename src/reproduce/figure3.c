/* Figure 3: the prior bound against the one for convolutions (Theorem 4.4), on the convolutional part. */
#include "reproduce/chain_bounds.h"

qb_status qb_reproduce_figure3(qb_reproducing *r) {
  static const qb_gap_study studies[] = {{QB_STUDY_MOBILENETV2, 56, true},
                                         {QB_STUDY_TINY_MOBILENETV2, 56, true},
                                         {QB_STUDY_RESNET50, 27, true}};
  return qb_gap_figure(r, studies, sizeof studies / sizeof *studies, QB_CHAIN_CNN, "convolutions (Theorem 4.4)",
                       "Figure 3: the prior bound against the one for convolutions");
}
