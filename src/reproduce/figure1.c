/* Figure 1: the prior bound against the new one (Theorem 4.1), ResNet-18 without BatchNorm and biases. */
#include "reproduce/chain_bounds.h"

qb_status qb_reproduce_figure1(qb_reproducing *r) {
  static const qb_gap_study studies[] = {{QB_STUDY_RESNET18, 8, false}, {QB_STUDY_TINY_RESNET18, 8, false}};
  return qb_gap_figure(r, studies, sizeof studies / sizeof *studies, QB_CHAIN_GENERAL, "new (Theorem 4.1)",
                       "Figure 1: the prior bound against the new one");
}
