/* A ball as bytes: first everything of fixed size, then its arrays; see ball_share.h. */
#include "api/ball_share.h"

#include <string.h>

#include "base/error.h"
#include "base/ranks.h"

/* A ball without its pointers, which mean nothing in another process. */
typedef struct packed_ball {
  qb_certified_ball ball;
  qb_ball_details details;
  char method[32]; /* "" when nothing is proved */
  bool has_outputs, has_axis, has_relaxed, has_slopes, has_flip, has_found;
} packed_ball;

static void pack(const qb_certified_ball *ball, const qb_ball_details *details, packed_ball *packed) {
  memset(packed, 0, sizeof *packed);
  packed->ball = *ball;
  packed->details = *details;
  if (details->proof.method != NULL)
    memcpy(packed->method, details->proof.method, strnlen(details->proof.method, sizeof packed->method - 1));
  packed->has_outputs = details->proof.outputs != NULL;
  packed->has_axis = details->proof.axis != NULL;
  packed->has_relaxed = details->proof.relaxed != NULL;
  packed->has_slopes = details->proof.slopes != NULL;
  packed->has_flip = details->flip != NULL;
  packed->has_found = details->found != NULL;
}

/* `data` of the owner on every rank; the others allocate it. */
static qb_status share_array(const qb_certifying *c, bool exists, size_t count, size_t size, int owner, void **data) {
  if (!exists || count == 0)
    return QB_OK;
  if (qb_rank() != owner)
    *data = qb_arena_alloc(&c->parts->arena, count, size);
  qb_status status = *data == NULL ? qb_fail_memory(c->error, "a ball", count * size) : QB_OK;
  QB_TRY(qb_ranks_agree(status, c->error));
  return qb_ranks_share(*data, count * size, owner, c->error);
}

static qb_status unpack(const qb_certifying *c, const packed_ball *packed, qb_certified_ball *ball,
                        qb_ball_details *details) {
  *ball = packed->ball;
  *details = packed->details;
  details->proof.method = NULL;
  details->proof.outputs = NULL;
  details->proof.axis = NULL;
  details->proof.relaxed = NULL;
  details->proof.slopes = NULL;
  details->flip = NULL;
  details->found = NULL;
  ball->outputs = NULL;
  ball->why = qb_arena_string(&c->parts->arena, details->proof.why, strlen(details->proof.why));
  if (packed->method[0] != '\0')
    details->proof.method = qb_arena_string(&c->parts->arena, packed->method, strlen(packed->method));
  ball->method = details->proof.method;
  return ball->why == NULL || (packed->method[0] != '\0' && ball->method == NULL)
             ? qb_fail_memory(c->error, "a ball", sizeof packed->method)
             : QB_OK;
}

qb_status qb_ball_share(const qb_certifying *c, int64_t elements, int owner, qb_certified_ball *ball,
                        qb_ball_details *details) {
  packed_ball packed;
  qb_status status = QB_OK;
  if (qb_rank_count() == 1)
    return QB_OK;
  pack(ball, details, &packed);
  QB_TRY(qb_ranks_share(&packed, sizeof packed, owner, c->error));
  if (qb_rank() != owner)
    status = unpack(c, &packed, ball, details);
  QB_TRY(qb_ranks_agree(status, c->error));
  qb_ball_proof *proof = &details->proof;
  void *outputs = proof->outputs, *axis = proof->axis, *flip = details->flip;
  void *found = details->found;
  void *relaxed = proof->relaxed, *slopes = proof->slopes;
  QB_TRY(share_array(c, packed.has_outputs, (size_t)proof->count, sizeof *proof->outputs, owner, &outputs));
  QB_TRY(share_array(c, packed.has_axis, (size_t)proof->node_count, sizeof *proof->axis, owner, &axis));
  QB_TRY(share_array(c, packed.has_relaxed, (size_t)proof->relaxed_count, sizeof *proof->relaxed, owner, &relaxed));
  QB_TRY(share_array(c, packed.has_slopes, (size_t)proof->slope_count, sizeof *proof->slopes, owner, &slopes));
  QB_TRY(share_array(c, packed.has_flip, (size_t)elements, sizeof *details->flip, owner, &flip));
  QB_TRY(share_array(c, packed.has_found, (size_t)elements, sizeof *details->found, owner, &found));
  proof->outputs = outputs;
  proof->axis = axis;
  proof->relaxed = relaxed;
  proof->slopes = slopes;
  details->flip = flip;
  details->found = found;
  if (qb_rank() != owner && packed.ball.outputs != NULL)
    ball->outputs = proof->outputs;
  return QB_OK;
}
