package routes

import (
	"fmt"
	"unicode/utf8"

	"gatecontrol/model"
)

// Appearance says what requests and answers look like, who is kept busy with
// nonsense, and what is shown to people.
type Appearance struct {
	CompressEnabled model.Field[bool]           `json:"compress_enabled"`
	CustomHeaders   model.Column[HeadersInput]  `json:"custom_headers" doc:"Fields that are set on the way to the backend and back"`
	DebugEnabled    model.Field[bool]           `json:"debug_enabled" doc:"The last requests are kept to be looked at"`
	UserIDs         model.Column[model.Numbers] `json:"user_ids" doc:"Who sees the route in the desktop client; none is everyone"`

	BotBlockerEnabled model.Field[bool]       `json:"bot_blocker_enabled"`
	BotBlockerMode    model.Field[string]     `json:"bot_blocker_mode" doc:"block, tarpit, drop, garbage, redirect or custom"`
	BotBlockerConfig  model.Column[BotConfig] `json:"bot_blocker_config"`

	BrandingTitle model.Field[string] `json:"branding_title"`
	BrandingText  model.Field[string] `json:"branding_text"`
	BrandingColor model.Field[string] `json:"branding_color"`
	BrandingBG    model.Field[string] `json:"branding_bg"`
}

// HeadersInput is the value of custom_headers.
type HeadersInput struct {
	Request  model.List[HeaderInput] `json:"request"`
	Response model.List[HeaderInput] `json:"response"`
}

// HeaderInput is one element of it.
type HeaderInput struct {
	Name  model.Field[string] `json:"name"`
	Value model.Field[string] `json:"value"`
}

// BotConfig is the value of bot_blocker_config.
type BotConfig struct {
	URL     model.Field[string] `json:"url" doc:"For redirect"`
	Message model.Field[string] `json:"message" doc:"For custom"`
	Status  model.Field[int64]  `json:"status_code" doc:"For custom, 200 to 599"`
}

// UnmarshalJSON reads an object.
func (in *HeadersInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// UnmarshalJSON reads an object.
func (in *HeaderInput) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

// UnmarshalJSON reads an object.
func (in *BotConfig) UnmarshalJSON(b []byte) error { return model.DecodeObject(b, in) }

func (in *Appearance) apply(w *model.Web, domain string, bad *model.Invalids) {
	set(&w.Compress, in.CompressEnabled)
	set(&w.Trace, in.DebugEnabled)
	in.applyHeaders(w, bad)
	in.applyUsers(w, bad)
	in.applyBots(&w.Bots, domain, bad)
	text(&w.Branding.Title, in.BrandingTitle)
	text(&w.Branding.Text, in.BrandingText)
	text(&w.Branding.Color, in.BrandingColor)
	text(&w.Branding.Background, in.BrandingBG)
	w.Branding.Check(bad)
}

func (in *Appearance) applyHeaders(w *model.Web, bad *model.Invalids) {
	if !in.CustomHeaders.Set {
		return
	}
	h := &model.Headers{
		Request:  headerFields(in.CustomHeaders.Value.Request, "custom_headers.request", true, bad),
		Response: headerFields(in.CustomHeaders.Value.Response, "custom_headers.response", false, bad),
	}
	if w.Headers = h; len(h.Request)+len(h.Response) == 0 {
		w.Headers = nil
	}
}

func headerFields(in []HeaderInput, field string, request bool, bad *model.Invalids) []model.HeaderField {
	if len(in) > model.MaxHeaderFields {
		bad.Add(field, "must have at most %d fields", model.MaxHeaderFields)
		return nil
	}
	list := make([]model.HeaderField, 0, len(in))
	for i, e := range in {
		f, err := model.ParseHeaderField(e.Name.Value, e.Value.Value, request)
		if err != nil {
			bad.Add(fmt.Sprintf("%s[%d]", field, i), "%s", err)
			continue
		}
		list = append(list, f)
	}
	if err := model.CheckHeaderFields(list); err != nil {
		bad.Add(field, "%s", err)
	}
	return list
}

// maxUsers bounds user_ids; one that lists more means everyone.
const maxUsers = 1000

func (in *Appearance) applyUsers(w *model.Web, bad *model.Invalids) {
	if !in.UserIDs.Set {
		return
	}
	w.Users = nil
	if len(in.UserIDs.Value) > maxUsers {
		bad.Add("user_ids", "must be at most %d", maxUsers)
		return
	}
	for i, id := range in.UserIDs.Value {
		if id <= 0 {
			bad.Add(fmt.Sprintf("user_ids[%d]", i), "is no user")
		}
		w.Users = append(w.Users, id)
	}
}

// What a custom answer to a bot is where its request does not say, and the most
// that it says, in characters.
const (
	defaultBotStatus = 403
	maxBotMessage    = 500
)

// applyBots takes the values of all modes; those of another one than the current
// are kept.
func (in *Appearance) applyBots(b *model.BotBlocker, domain string, bad *model.Invalids) {
	set(&b.Enabled, in.BotBlockerEnabled)
	if in.BotBlockerMode.Set {
		b.Mode = in.BotBlockerMode.Or(model.BotBlock)
	}
	switch b.Mode {
	case model.BotBlock, model.BotTarpit, model.BotDrop, model.BotGarbage, model.BotRedirect, model.BotCustom:
	default:
		bad.Add("bot_blocker_mode", "must be %s, %s, %s, %s, %s or %s", model.BotBlock, model.BotTarpit, model.BotDrop, model.BotGarbage, model.BotRedirect, model.BotCustom)
	}
	const field = "bot_blocker_config"
	if in.BotBlockerConfig.Set {
		c := in.BotBlockerConfig.Value
		b.URL, b.Message, b.Status = c.URL.Value, c.Message.Value, 0
		// A status below 200 is no answer: the client would wait for another one.
		number(&b.Status, c.Status, field+".status_code", 200, 599, bad)
		if utf8.RuneCountInString(b.Message) > maxBotMessage {
			bad.Add(field+".message", "must be at most %d characters", maxBotMessage)
		}
		if b.URL != "" {
			if _, err := model.ParseRedirect(b.URL); err != nil {
				bad.Add(field+".url", "%s", err)
			}
		}
	}
	switch {
	case b.Mode == model.BotRedirect && b.Enabled && b.URL == "":
		bad.Add(field+".url", "is required")
	case b.Mode == model.BotRedirect && b.URL != "" && model.LeadsTo(b.URL, domain):
		bad.Add(field+".url", "must not lead back to this route")
	case b.Mode == model.BotCustom && b.Status == 0:
		b.Status = defaultBotStatus
	}
}
