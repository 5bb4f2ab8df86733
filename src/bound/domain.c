/* Domains: boxes of network inputs. */
#include <math.h>

#include "base/alloc.h"
#include "base/error.h"
#include "bound/bound.h"

static qb_status check_limits(float lo, float hi, qb_error *error) {
  if (!isfinite(lo) || !isfinite(hi) || lo > hi)
    return qb_fail(error, QB_ERROR_ARGUMENT, "the domain [%g, %g] is empty or not finite", (double)lo, (double)hi);
  return QB_OK;
}

/* The shape of the network's one input. */
static qb_status input_shape(const qb_graph *graph, const qb_shape **shape, qb_error *error) {
  if (graph->input_count != 1)
    return qb_fail(error, QB_ERROR_UNSUPPORTED, "%s: bounds need a network with one input, this one has %d",
                   graph->name, graph->input_count);
  *shape = &graph->values[graph->inputs[0]].shape;
  return QB_OK;
}

static qb_status allocate(const qb_shape *shape, qb_domain *domain, qb_error *error) {
  size_t count = qb_shape_elements(shape);
  *domain = (qb_domain){.count = (int64_t)count,
                        .lo = qb_alloc(count, sizeof *domain->lo),
                        .hi = qb_alloc(count, sizeof *domain->hi)};
  if (domain->lo == NULL || domain->hi == NULL) {
    qb_domain_free(domain);
    return qb_fail_memory(error, "input domain", 2 * count * sizeof *domain->lo);
  }
  return QB_OK;
}

qb_status qb_domain_interval(const qb_graph *graph, float lo, float hi, qb_domain *domain, qb_error *error) {
  const qb_shape *shape = NULL;
  *domain = (qb_domain){0};
  QB_TRY(check_limits(lo, hi, error));
  QB_TRY(input_shape(graph, &shape, error));
  QB_TRY(allocate(shape, domain, error));
  for (int64_t i = 0; i < domain->count; i++) {
    domain->lo[i] = lo;
    domain->hi[i] = hi;
  }
  return QB_OK;
}

qb_status qb_domain_channels(const qb_graph *graph, const float *lo, const float *hi, int32_t channels,
                             qb_domain *domain, qb_error *error) {
  const qb_shape *shape = NULL;
  *domain = (qb_domain){0};
  QB_TRY(input_shape(graph, &shape, error));
  if (shape->rank < 2 || shape->dims[1] != channels)
    return qb_fail(error, QB_ERROR_SHAPE, "%s: the domain has %d channels, the network's input %lld", graph->name,
                   channels, shape->rank < 2 ? 0LL : (long long)shape->dims[1]);
  for (int32_t c = 0; c < channels; c++)
    QB_TRY(check_limits(lo[c], hi[c], error));
  QB_TRY(allocate(shape, domain, error));
  int64_t inner = domain->count / channels;
  for (int64_t i = 0; i < domain->count; i++) {
    domain->lo[i] = lo[i / inner];
    domain->hi[i] = hi[i / inner];
  }
  return QB_OK;
}

void qb_domain_free(qb_domain *domain) {
  if (domain == NULL)
    return;
  qb_free(domain->lo);
  qb_free(domain->hi);
  *domain = (qb_domain){0};
}

double qb_domain_radius(const qb_domain *domain) {
  double radius = 0;
  for (int64_t i = 0; i < domain->count; i++)
    radius = fmax(radius, fmax(fabs((double)domain->lo[i]), fabs((double)domain->hi[i])));
  return radius;
}
