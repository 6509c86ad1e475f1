package model

import "strings"

// maxBlockBody bounds the page of a BlockReply.
const maxBlockBody = 16 << 10

// The settings that hold the BlockReply of routes whose own says inherit, as a
// backup spells them.
const (
	BlockActionKey = "route_external_block_action"
	BlockBodyKey   = "route_external_block_body"
	BlockURLKey    = "route_external_block_redirect_url"
)

// BlockKeys lists them.
func BlockKeys() []string { return []string{BlockActionKey, BlockBodyKey, BlockURLKey} }

// DefaultBlock is what inherit means where no setting says otherwise.
func DefaultBlock() BlockReply { return BlockReply{Action: BlockNotFound} }

// With returns b with a stored setting; other keys than BlockKeys change nothing.
func (b BlockReply) With(key, value string) BlockReply {
	switch key {
	case BlockActionKey:
		b.Action = value
	case BlockBodyKey:
		b.Body = value
	case BlockURLKey:
		b.URL = value
	}
	return b
}

// Check notes what b cannot be, under the prefix and action, body or redirect_url.
// What its action does not use is only kept, and so needs to be short alone.
func (b *BlockReply) Check(prefix string, bad *Invalids) {
	switch b.Action {
	case BlockInherit, BlockNotFound, BlockCustom, BlockRedirect, BlockEmpty:
	default:
		bad.Add(prefix+"action", "must be %s, %s, %s, %s or %s", BlockInherit, BlockNotFound, BlockCustom, BlockRedirect, BlockEmpty)
	}
	if len(b.Body) > maxBlockBody {
		bad.Add(prefix+"body", "must be at most %d bytes", maxBlockBody)
	} else if b.Action == BlockCustom && strings.TrimSpace(b.Body) == "" {
		bad.Add(prefix+"body", "is required")
	}
	if b.URL == "" && b.Action == BlockRedirect {
		bad.Add(prefix+"redirect_url", "is required")
	} else if b.URL != "" {
		if _, err := ParseRedirect(b.URL); err != nil {
			bad.Add(prefix+"redirect_url", "%s", err)
		}
	}
}

// For returns what a stranger gets of the route with that domain: b, or instead
// of inherit, def. Where neither can be used, it is not found: a redirect to the
// route itself would have browsers go round in circles.
func (b BlockReply) For(domain string, def BlockReply) BlockReply {
	if b.Action == BlockInherit {
		b = def
	}
	switch {
	case b.Action == BlockCustom && b.Body != "":
		return BlockReply{Action: b.Action, Body: b.Body}
	case b.Action == BlockRedirect && !LeadsTo(b.URL, domain):
		return BlockReply{Action: b.Action, URL: b.URL}
	case b.Action == BlockEmpty:
		return BlockReply{Action: b.Action}
	}
	return BlockReply{Action: BlockNotFound}
}
