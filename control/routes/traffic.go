package routes

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatecontrol/model"
)

// Traffic says how many requests pass, and what becomes of those that fail.
type Traffic struct {
	RateLimitEnabled  model.Field[bool]   `json:"rate_limit_enabled"`
	RateLimitRequests model.Field[int64]  `json:"rate_limit_requests" doc:"1 to 100000"`
	RateLimitWindow   model.Field[string] `json:"rate_limit_window" doc:"1s, 1m, 5m or 1h"`

	RetryEnabled     model.Field[bool]  `json:"retry_enabled"`
	RetryCount       model.Field[int64] `json:"retry_count" doc:"1 to 10"`
	RetryStatusCodes Statuses           `json:"retry_status_codes"`
	RetryMatchStatus Statuses           `json:"retry_match_status"`

	BreakerEnabled   model.Field[bool]  `json:"circuit_breaker_enabled" doc:"Any value closes the breaker"`
	BreakerThreshold model.Field[int64] `json:"circuit_breaker_threshold" doc:"1 to 100"`
	BreakerTimeout   model.Field[int64] `json:"circuit_breaker_timeout" doc:"Seconds, 5 to 3600"`
}

func (in *Traffic) apply(w *model.Web, bad *model.Invalids) {
	set(&w.RateLimit.Enabled, in.RateLimitEnabled)
	number(&w.RateLimit.Requests, in.RateLimitRequests, "rate_limit_requests", 1, 100_000, bad)
	if name := strings.TrimSpace(in.RateLimitWindow.Value); name != "" {
		window, err := model.ParseRateWindow(name)
		bad.AddError(err)
		w.RateLimit.Window = window
	}
	in.applyRetry(&w.Retry, bad)
	in.applyBreaker(&w.Breaker, bad)
}

func (in *Traffic) applyRetry(r *model.Retry, bad *model.Invalids) {
	set(&r.Enabled, in.RetryEnabled)
	number(&r.Count, in.RetryCount, "retry_count", 1, 10, bad)
	codes := in.RetryStatusCodes
	if !codes.set {
		codes = in.RetryMatchStatus
	} else if in.RetryMatchStatus.set && !slices.Equal(codes.list, in.RetryMatchStatus.list) {
		bad.Add("retry_match_status", "is another list than retry_status_codes")
		return
	}
	if codes.set {
		r.Statuses = codes.list
	}
}

// applyBreaker closes the breaker of a request that speaks of it, whatever it
// says: so do the forms of GateControl free a route that is stuck.
func (in *Traffic) applyBreaker(b *model.Breaker, bad *model.Invalids) {
	set(&b.Enabled, in.BreakerEnabled)
	number(&b.Threshold, in.BreakerThreshold, "circuit_breaker_threshold", 1, 100, bad)
	seconds := int(b.Timeout / time.Second)
	number(&seconds, in.BreakerTimeout, "circuit_breaker_timeout", 5, 3600, bad)
	b.Timeout = time.Duration(seconds) * time.Second
	if in.BreakerEnabled.Set {
		b.Open = false
	}
}

// Statuses are HTTP statuses in a request: a text with commas or a list, each
// once, in their order. What is no status is dropped, as GateControl does.
type Statuses struct {
	set  bool // there, and not null
	list []int
}

// maxStatuses bounds the list; the fifty or so that are assigned fit in.
const maxStatuses = 100

// UnmarshalJSON reads either spelling.
func (s *Statuses) UnmarshalJSON(b []byte) error {
	*s = Statuses{}
	if string(b) == "null" {
		return nil
	}
	var text string
	if json.Unmarshal(b, &text) != nil {
		text = string(b)
	}
	if inner := strings.TrimSpace(text); strings.HasPrefix(inner, "[") {
		var tokens []any
		if json.Unmarshal([]byte(inner), &tokens) != nil {
			return fmt.Errorf("must be statuses such as 502,503,504")
		}
		texts := make([]string, len(tokens))
		for i, t := range tokens {
			texts[i] = fmt.Sprint(t)
		}
		text = strings.Join(texts, ",")
	} else if strings.HasPrefix(inner, "{") || inner == "true" || inner == "false" {
		return fmt.Errorf("must be statuses such as 502,503,504")
	}
	s.set, s.list = true, []int{}
	for token := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(token))
		if err == nil && n >= 100 && n <= 599 && !slices.Contains(s.list, n) {
			if s.list = append(s.list, n); len(s.list) > maxStatuses {
				return fmt.Errorf("must be at most %d statuses", maxStatuses)
			}
		}
	}
	return nil
}
