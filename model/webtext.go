package model

import (
	"strconv"
	"strings"
)

// Text is h as the JSON text of a column, nil for none.
func (h *Headers) Text() *string {
	if h == nil {
		return nil
	}
	return columnText(h)
}

// StatusText lists the statuses of r with commas.
func (r *Retry) StatusText() string {
	texts := make([]string, len(r.Statuses))
	for i, s := range r.Statuses {
		texts[i] = strconv.Itoa(s)
	}
	return strings.Join(texts, ",")
}

// ConfigText is what belongs to the mode of b as the JSON text of a column, nil
// for nothing.
func (b *BotBlocker) ConfigText() *string {
	if b.URL == "" && b.Message == "" && b.Status == 0 {
		return nil
	}
	return columnText(struct {
		URL     string `json:"url,omitempty"`
		Message string `json:"message,omitempty"`
		Status  int    `json:"status_code,omitempty"`
	}{b.URL, b.Message, b.Status})
}
