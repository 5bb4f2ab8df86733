/* A certificate for people, claim by claim. */
#include <math.h>
#include <stdio.h>

#include "cli/cli.h"

static void print_methods(const qb_worst_case_claim *claim) {
  char text[CLI_BOUND_TEXT];
  for (int i = 0; i < claim->method_count; i++) {
    const qb_bound_value *value = &claim->methods[i];
    if (value->applies)
      printf("  %-11s %s\n", value->name, cli_bound_text(value, text));
    else
      printf("  %-11s not applicable: %s\n", value->name, value->why);
  }
}

static void print_claim(const qb_worst_case_claim *claim) {
  if (!claim->proved) {
    printf("\nNothing is proved: no method applies.\n");
    return;
  }
  printf("\nNo output changes by more than %.9g (%s", claim->bound, claim->method);
  printf(claim->lower > 0 ? "); some output does by %.9g\n" : ")\n", claim->lower);
  if (isfinite(claim->looseness) && claim->lower > 0)
    printf("  between the two lie %.2f decades\n", claim->looseness);
  if (claim->vacuous)
    printf("  the bound is vacuous: the float network's own output moves by at most %.4g over these inputs, so that "
           "it\n"
           "  says no more than the network alone\n",
           claim->output_range);
  if (claim->flips)
    printf("  the networks do not always decide alike: an input was found with largest output %lld and %lld\n",
           (long long)claim->top, (long long)claim->other_top);
}

void cli_print_certificate(const qb_certificate *certificate) {
  printf("%s against %s", certificate->quantized, certificate->model);
  if (certificate->has_worst_case) {
    printf(", inputs %s%s\nUpper bounds of the largest |change of an output| over all these inputs:\n",
           certificate->domain, certificate->float32 ? ", evaluated exactly or in float32" : "");
    print_methods(&certificate->worst_case);
    print_claim(&certificate->worst_case);
  } else {
    printf("%s\n", certificate->float32 ? ", evaluated exactly or in float32" : "");
  }
  if (certificate->has_balls)
    cli_print_balls(&certificate->balls);
  if (certificate->has_statistical)
    cli_print_statistical(&certificate->statistical);
}
