/* The statistical claim for people: first what is guaranteed, then what was seen, then what more inputs would show. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/table.h"

enum { PERCENT_TEXT = 32 };

/* An upper limit in percent, rounded up to two decimals. */
static const char *percent_up(double limit, char text[PERCENT_TEXT]) {
  double hundredths = ceil(limit * 1e4);
  if (hundredths / 1e4 < limit)
    hundredths++;
  snprintf(text, PERCENT_TEXT, "%.2f %%", hundredths / 100);
  return text;
}

/* An error rounded up to five digits: the claim about a larger error is weaker. */
static double error_up(double error) {
  char text[32];
  if (error <= 0)
    return error;
  double digit = pow(10, floor(log10(error)) - 4), up = error, shown = 0;
  for (int i = 0; i < 3 && shown < error; i++, up += digit) {
    snprintf(text, sizeof text, "%.4e", up);
    sscanf(text, "%lf", &shown);
  }
  return shown;
}

static void print_errors(const qb_statistical_claim *claim) {
  char share[PERCENT_TEXT];
  for (int i = 0; i < claim->quantile_count; i++)
    printf("  at most %8s of inputs have an output error above %.5g\n",
           percent_up(claim->quantiles[i].exceedance, share), error_up(claim->quantiles[i].error));
}

static void print_accuracy(const qb_statistical_claim *claim) {
  char loss[PERCENT_TEXT];
  if (claim->labelled == 0)
    return;
  printf("  at most %8s of accuracy are lost (only the original was right on %lld, only the quantized one on %lld of "
         "%lld)\n",
         percent_up(claim->accuracy_loss_upper, loss), (long long)claim->lost, (long long)claim->gained,
         (long long)claim->labelled);
}

static void print_curve(const qb_statistical_claim *claim) {
  cli_table table;
  char share[PERCENT_TEXT];
  printf("\n  the curve of errors; each line is guaranteed:\n");
  cli_table_begin(&table, "rr");
  cli_table_cell(&table, "error above");
  cli_table_cell(&table, "inputs, at most");
  for (int i = 0; i < claim->curve_count; i++) {
    cli_table_cell(&table, "%.5g", error_up(claim->curve[i].error));
    cli_table_cell(&table, "%s", percent_up(claim->curve[i].exceedance, share));
  }
  cli_table_end(&table);
}

static void print_classes(const qb_statistical_claim *claim) {
  cli_table table;
  char text[PERCENT_TEXT];
  if (claim->class_count == 0)
    return;
  printf("\n  by class (%s):\n", claim->classes_are_labels ? "label" : "decision of the original");
  cli_table_begin(&table, claim->classes_are_labels ? "rrrrr" : "rrrr");
  cli_table_cell(&table, "class");
  cli_table_cell(&table, "inputs");
  cli_table_cell(&table, "flips");
  cli_table_cell(&table, "change class, at most");
  if (claim->classes_are_labels)
    cli_table_cell(&table, "accuracy lost, at most");
  for (int64_t k = 0; k < claim->class_count; k++) {
    const qb_class_claim *one = &claim->classes[k];
    cli_table_cell(&table, "%lld", (long long)one->index);
    cli_table_cell(&table, "%lld", (long long)one->inputs);
    cli_table_cell(&table, "%lld", (long long)one->flips);
    cli_table_cell(&table, "%s", percent_up(one->flip_rate_upper, text));
    if (claim->classes_are_labels)
      cli_table_cell(&table, "%s", percent_up(one->accuracy_loss_upper, text));
  }
  cli_table_end(&table);
}

static void print_needs(const qb_statistical_claim *claim) {
  for (int i = 0; i < claim->need_count; i++) {
    const qb_sample_need *need = &claim->needs[i];
    bool flips = strcmp(need->claim, "flip_rate") == 0;
    printf("  to claim %s of at most %g %% takes %lld inputs (%lld more)", flips ? "a flip rate" : "an exceedance",
           100 * need->target, (long long)need->inputs, (long long)(need->inputs - claim->n));
    if (flips && need->at_this_rate > 0)
      printf(" without a further flip, about %lld with flips as seen", (long long)need->at_this_rate);
    else if (flips)
      printf(" without a further flip; with flips as seen no number is enough");
    printf("\n");
  }
}

static void print_sharing(const qb_statistical_claim *claim) {
  printf("\n  1 - confidence is shared by %lld claims", (long long)claim->claims);
  if (claim->candidates > 1)
    printf(" about each of %lld candidates", (long long)claim->candidates);
  printf(" (Bonferroni): each may fail with probability %.4g\n", claim->alpha);
  if (!claim->calibration_known)
    printf("  the quantized file does not say which samples made it: that these were not among them is not checked\n");
  else if (claim->calibration_samples > 0)
    printf("  none of the inputs is among the %lld that made the quantized network\n",
           (long long)claim->calibration_samples);
}

static void print_layers(const qb_layerwise_statistics *claim) {
  cli_table table;
  cli_table_begin(&table, "lrrrr");
  cli_table_cell(&table, "layer");
  cli_table_cell(&table, "X, passes on");
  cli_table_cell(&table, "Y, adds");
  cli_table_cell(&table, "mean error");
  cli_table_cell(&table, "recursion");
  for (int i = 0; i < claim->layer_count; i++) {
    const qb_layer_statistics_claim *layer = &claim->layers[i];
    cli_table_cell(&table, "%s", layer->node);
    cli_table_cell(&table, "%.3g +- %.2g", layer->ratio_mean, layer->ratio_deviation);
    cli_table_cell(&table, "%.3g +- %.2g", layer->change_mean, layer->change_deviation);
    cli_table_cell(&table, "%.4g", layer->difference_mean);
    cli_table_cell(&table, "%.4g", layer->limit);
  }
  cli_table_end(&table);
}

static void print_guarantee(const qb_layerwise_statistics *claim) {
  if (!claim->guaranteed) {
    printf("  no guarantee before the draw: %s\n", claim->why_not);
    return;
  }
  printf("\nGuarantee, for each of the first %lld inputs alone, before the seed of the stochastic rounding is drawn:\n",
         (long long)claim->inputs);
  printf("  with probability %.10g over that draw the change of the output has a norm of at most %.5g for the first\n"
         "  (with this seed it was %.5g), at most %.5g for any of them; %lld exceed theirs\n",
         1 - claim->delta, error_up(claim->guarantee_first), claim->first_measured, error_up(claim->guarantee_largest),
         (long long)claim->guarantee_above);
}

static void print_layerwise(const qb_layerwise_statistics *claim) {
  printf("\nEstimate, layer by layer (l2 norms; moments of these inputs, so nothing here is guaranteed):\n");
  print_layers(claim);
  printf("  the change of the output exceeds %.5g with an estimated probability of at most %.10g (Cantelli)\n",
         error_up(claim->bound), claim->delta);
  printf("  measured: a share of at most %.10g exceeds %.5g, the largest is %.5g; %lld exceed the estimate\n",
         claim->delta, claim->measured_quantile, claim->measured_max, (long long)claim->above);
  print_guarantee(claim);
}

void cli_print_statistical(const qb_statistical_claim *claim) {
  char share[PERCENT_TEXT];
  printf("\nWith %.10g %% confidence, for inputs drawn like the %lld held-out ones (all of this together):\n",
         100 * claim->confidence, (long long)claim->n);
  printf("  at most %8s of inputs change class (%lld of %lld did)\n", percent_up(claim->flip_rate_upper, share),
         (long long)claim->flips, (long long)claim->n);
  print_accuracy(claim);
  print_errors(claim);
  print_curve(claim);
  print_classes(claim);
  print_sharing(claim);
  print_needs(claim);
  if (claim->layerwise != NULL)
    print_layerwise(claim->layerwise);
}
