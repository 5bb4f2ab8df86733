/* Names of the bounds module. */
#include "bound/bound.h"

const char *qb_form_name(qb_form form) {
  static const char *const names[] =
      {[QB_FORM_PLAIN] = "plain", [QB_FORM_G1] = "G1", [QB_FORM_G3] = "G3", [QB_FORM_G4] = "G4"};
  return names[form];
}
