/* What a qb_certificate holds behind its back, and its text. */
#ifndef QB_REPORT_CERTIFICATE_JSON_H
#define QB_REPORT_CERTIFICATE_JSON_H

#include "base/arena.h"
#include "bound/certificate.h"
#include "report/certificate_balls.h"
#include "search/search.h"

typedef struct qb_certificate_parts {
  qb_arena arena;   /* of strings and what the balls need */
  qb_arena scratch; /* of the current step */
  qb_domain domain;
  int64_t output; /* -1: all */
  qb_worst_case worst;
  qb_search_result search;
  qb_ball_proof cuts; /* of the worst case when bisection proved it: its tree of cuts */
  qb_ball_around around;
  qb_graph loose[2]; /* with settings.lsb: both networks, whose codes may be off */
} qb_certificate_parts;

/* docs/certificate.md. QB_ERROR_MEMORY. */
QB_MUST_CHECK qb_status qb_report_certificate(const qb_certificate *certificate, const qb_certificate_parts *parts,
                                              char **text, qb_error *error);

/* The smallest decimal of nine digits that is at least x >= 0. */
double qb_certificate_round_up(double x);

#endif
