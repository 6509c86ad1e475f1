package proxy

import (
	"bytes"
	"net/url"
)

// masked stands for what nobody may read in a log.
const masked = "[redacted]"

// sharePrefix is where share links are redeemed: the rest of the path is the token.
var sharePrefix = []byte("/route-auth/share/")

// appendRedacted appends a request target without its secrets: tokens of share
// links, and parameters of the query whose names say that they are secret.
func appendRedacted(b, target []byte) []byte {
	path, query, found := bytes.Cut(target, []byte{'?'})
	if bytes.HasPrefix(path, sharePrefix) && len(path) > len(sharePrefix) {
		b = append(append(b, sharePrefix...), masked...)
	} else {
		b = append(b, path...)
	}
	if !found {
		return b
	}
	b = append(b, '?')
	for {
		end := bytes.IndexAny(query, "&;")
		pair := query
		if end >= 0 {
			pair = query[:end]
		}
		if name, value, ok := bytes.Cut(pair, equals); ok && len(value) > 0 && isSecretName(name) {
			b = append(append(append(b, name...), '='), masked...)
		} else {
			b = append(b, pair...)
		}
		if end < 0 {
			return b
		}
		b = append(b, query[end])
		query = query[end+1:]
	}
}

// needsRedaction reports whether appendRedacted could change target: most have
// neither a query nor that path.
func needsRedaction(target []byte) bool {
	return bytes.IndexByte(target, '?') >= 0 || bytes.HasPrefix(target, sharePrefix)
}

// isSecretName reports whether a parameter holds what lets people in, in whatever
// way its name is written.
func isSecretName(name []byte) bool {
	if bytes.IndexByte(name, '%') >= 0 {
		if plain, err := url.QueryUnescape(string(name)); err == nil {
			name = []byte(plain)
		}
	}
	for _, end := range [...]string{"token", "password", "secret", "apikey", "api_key", "signature"} {
		if len(name) >= len(end) && equalFold(name[len(name)-len(end):], end) {
			return true
		}
	}
	for _, whole := range [...]string{"code", "key", "sig", "passwd", "pass", "pwd", "auth", "jwt"} {
		if equalFold(name, whole) {
			return true
		}
	}
	return false
}
