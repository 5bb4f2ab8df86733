/* The sections of a report page, in order. Private to report/. */
#ifndef QB_REPORT_PAGE_SECTIONS_H
#define QB_REPORT_PAGE_SECTIONS_H

#include "report/page.h"

enum { QB_PAGE_BYTES_TEXT = 64 };

/* "3.52 MB"; returns `text`. */
const char *qb_page_bytes(int64_t size_bytes, char text[QB_PAGE_BYTES_TEXT]);

void qb_page_section_proved(qb_text_writer *w, const qb_page *page);
void qb_page_section_accuracy(qb_text_writer *w, const qb_page *page);
void qb_page_section_errors(qb_text_writer *w, const qb_page *page);
void qb_page_section_layers(qb_text_writer *w, const qb_page *page);
void qb_page_section_weights(qb_text_writer *w, const qb_page *page);
QB_MUST_CHECK qb_status qb_page_section_inputs(qb_text_writer *w, const qb_page *page, qb_error *error);
void qb_page_section_origin(qb_text_writer *w, const qb_page *page);

#endif
