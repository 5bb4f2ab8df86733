/* Exact rules of quantizers. A rounding is decided exactly: the value is compared with the ties, which are doubles, and
 * a value whose radius reaches over a tie gets the interval of the codes on both sides. */
#include <math.h>

#include "base/error.h"
#include "run/exact.h"

enum { FAR = 1 << 24 };

typedef struct code_rule {
  const exact_format *format;
  double unit;   /* the step that the value is counted in; 1 where it has been multiplied by a factor */
  double offset; /* code = floor(value / unit + offset), then plus `after` */
  double after;
  bool ties_even; /* of the code before `after` */
  double lo, hi;
  bool known;
} code_rule;

static double parameter(const exact_call *call, int32_t slot, int64_t i, double missing) {
  const qb_value *value = call->operand[slot];
  int64_t inner = 1;
  if (value == NULL)
    return missing;
  if (qb_shape_elements(&value->shape) == 1)
    return exact_constant(call, slot, 0);
  for (int32_t k = call->node->attributes.quantize.axis + 1; k < call->shape->rank; k++)
    inner *= call->shape->dims[k];
  return exact_constant(call, slot, i / inner % call->shape->dims[call->node->attributes.quantize.axis]);
}

/* round(q) = floor(q + 1/2) but for ties. Known when the ties (k - offset) unit are doubles. */
static code_rule make_rule(const exact_call *call, int64_t i) {
  double scale = parameter(call, 1, i, 1), zero = parameter(call, 2, i, 0);
  qb_code_rounding how = call->node->attributes.quantize.rounding;
  code_rule rule = {.format = call->format,
                    .unit = call->node->attributes.quantize.factor != 0 ? 1 : scale,
                    .offset = (how == QB_ROUND_EVEN ? 0 : zero) + (how == QB_ROUND_DOWN ? 0 : 0.5),
                    .after = how == QB_ROUND_EVEN ? zero : 0,
                    .ties_even = how == QB_ROUND_EVEN || how == QB_ROUND_SHIFTED,
                    .lo = fmax((double)call->node->attributes.quantize.lo, -FAR),
                    .hi = fmin((double)call->node->attributes.quantize.hi, FAR)};
  rule.known = zero == rint(zero) && fabs(zero) < FAR && scale > 0;
  return rule;
}

/* Whether value / unit + offset >= k, and whether it is equal. */
static int against(const code_rule *rule, const exact_number *value, double k) {
  return exact_compare_double(rule->format, value, (k - rule->offset) * rule->unit);
}

/* The code of an exact value: a guess in double, then exact steps. */
static double code_of(const code_rule *rule, const exact_number *value) {
  double hi, lo, error, least = rule->lo - rule->after - 1, most = rule->hi - rule->after + 1;
  exact_to_pair(rule->format, value, &hi, &lo, &error);
  double k = fmin(fmax(floor(hi / rule->unit + rule->offset), least), most);
  while (k < most && against(rule, value, k + 1) >= 0)
    k++;
  while (k > least && against(rule, value, k) < 0)
    k--;
  if (rule->ties_even && against(rule, value, k) == 0 && fmod(k, 2) != 0)
    k--;
  return fmin(fmax(k + rule->after, rule->lo), rule->hi);
}

static void unknown_code(const exact_call *call, exact_number *x) {
  exact_from_double(call->format, 0, x);
  x->r = fmax(fabs((double)call->node->attributes.quantize.lo), fabs((double)call->node->attributes.quantize.hi));
}

static void quantize(const exact_call *call, int64_t i, exact_number *x) {
  code_rule rule = make_rule(call, i);
  exact_number factor, end[2];
  if (call->node->attributes.quantize.factor != 0) {
    exact_from_double(call->format, (double)call->node->attributes.quantize.factor, &factor);
    exact_multiply(call->format, x, &factor, x);
  }
  if (qb_exact_fault_planted == QB_EXACT_FAULT_CENTRE_CODE)
    x->r = 0;
  exact_end(call->format, x, -1, &end[0]);
  exact_end(call->format, x, 1, &end[1]);
  bool unlimited =
      fmax(fabs((double)call->node->attributes.quantize.lo), fabs((double)call->node->attributes.quantize.hi)) > FAR;
  if (!rule.known || end[0].r != 0 || end[1].r != 0 ||
      (unlimited && exact_magnitude(call->format, x) / rule.unit > FAR / 2)) {
    unknown_code(call, x);
    return;
  }
  double low = code_of(&rule, &end[0]), high = code_of(&rule, &end[1]);
  exact_from_double(call->format, low / 2 + high / 2, x);
  x->r = (high - low) / 2;
}

qb_status qb_exact_quantize_linear(const exact_call *call) { return qb_exact_map(call, quantize); }

/* scale (code - zero point) */
static void dequantize(const exact_call *call, int64_t i, exact_number *x) {
  exact_number p;
  exact_from_double(call->format, parameter(call, 2, i, 0), &p);
  exact_subtract(call->format, x, &p, x);
  exact_from_double(call->format, parameter(call, 1, i, 1), &p);
  exact_multiply(call->format, x, &p, x);
}

qb_status qb_exact_dequantize_linear(const exact_call *call) { return qb_exact_map(call, dequantize); }
