package backup

import (
	"encoding/json"

	"gatecontrol/model"
)

// Archive is the file. Its entries refer to each other by name, since numbers
// belong to one server. Flags are 0 and 1, lists inside an entry are JSON texts,
// as the columns of GateControl's tables are.
type Archive struct {
	Version   int    `json:"version"`
	CreatedAt string `json:"created_at"`
	Data      Data   `json:"data"`
}

// Data holds the sections. One that this server has nothing for is empty, never
// null.
type Data struct {
	PeerGroups     []Group    `json:"peer_groups"`
	Peers          []Peer     `json:"peers"`
	Routes         []Route    `json:"routes"`
	RDPRoutes      []struct{} `json:"rdp_routes"`
	ServiceBundles []struct{} `json:"service_bundles"`
	Users          []User     `json:"users"`
	APITokens      []Token    `json:"api_tokens"`
	Tags           []struct{} `json:"tags"`
	GatewayMeta    []Gateway  `json:"gateway_meta"`
	Settings       []Setting  `json:"settings"`
	Webhooks       []struct{} `json:"webhooks"`
	RouteAuth      []struct{} `json:"route_auth"`

	// What GateControl has nothing for, and passes over.
	Certificates     []Certificate `json:"certificates,omitempty"`
	DNSZones         []DNSZone     `json:"dns_zones,omitempty"`
	CertificateItems []CertItem    `json:"certificate_items,omitempty"`
}

// Certificate is one entry of certificates: one that was brought.
type Certificate struct {
	Names               []string     `json:"names"`
	Certificate         string       `json:"certificate"` // PEM
	PrivateKeyEncrypted model.Sealed `json:"private_key_encrypted"`
	CreatedAt           string       `json:"created_at"`
}

// DNSZone is one entry of dns_zones.
type DNSZone struct {
	Zone             string            `json:"zone"`
	Provider         string            `json:"provider"`
	Settings         map[string]string `json:"settings"`
	SecretsEncrypted model.Sealed      `json:"secrets_encrypted"`
	Wildcard         bit               `json:"wildcard"`
	UpdatedAt        string            `json:"updated_at"`
}

// CertItem is one entry of certificate_items: an account at an authority, or a part
// of a certificate that the server got by itself.
type CertItem struct {
	Key            string       `json:"key"`
	ValueEncrypted model.Sealed `json:"value_encrypted"`
	ModifiedAt     string       `json:"modified_at"`
}

// bit is a bool that is 0 or 1 in the file.
type bit bool

// MarshalJSON writes 0 or 1.
func (b bit) MarshalJSON() ([]byte, error) {
	if b {
		return []byte("1"), nil
	}
	return []byte("0"), nil
}

// Group is one entry of peer_groups.
type Group struct {
	Name        string  `json:"name"`
	Color       string  `json:"color"`
	Description *string `json:"description"`
	CreatedAt   string  `json:"created_at"`

	Isolated bit `json:"isolated"`
	NoExit   bit `json:"no_exit"`
}

// Peer is one entry of peers.
type Peer struct {
	Name                  string         `json:"name"`
	Description           *string        `json:"description"`
	PublicKey             string         `json:"public_key"`
	PrivateKeyEncrypted   *model.Sealed  `json:"private_key_encrypted"`
	PresharedKeyEncrypted *model.Sealed  `json:"preshared_key_encrypted"`
	AllowedIPs            string         `json:"allowed_ips"`
	Endpoint              *string        `json:"endpoint"`
	DNS                   *string        `json:"dns"`
	PersistentKeepalive   uint16         `json:"persistent_keepalive"`
	Enabled               bit            `json:"enabled"`
	TransferRx            uint64         `json:"transfer_rx"`
	TransferTx            uint64         `json:"transfer_tx"`
	LatestHandshake       int64          `json:"latest_handshake"` // epoch seconds, 0: none
	TotalRx               uint64         `json:"total_rx"`
	TotalTx               uint64         `json:"total_tx"`
	Tags                  string         `json:"tags"`
	ExpiresAt             *string        `json:"expires_at"`
	Hostname              *string        `json:"hostname"`
	HostnameSource        *string        `json:"hostname_source"`
	HostnameReportedAt    *string        `json:"hostname_reported_at"`
	PeerType              model.PeerType `json:"peer_type"`
	CreatedAt             string         `json:"created_at"`
	UpdatedAt             string         `json:"updated_at"`
	GroupName             *string        `json:"group_name"`
	UserName              *string        `json:"user_name"` // owner

	RateLimitUp   uint64            `json:"rate_limit_up"` // bits per second, 0: none
	RateLimitDown uint64            `json:"rate_limit_down"`
	QuotaBytes    uint64            `json:"quota_bytes"` // a month, 0: none
	QuotaAction   model.QuotaAction `json:"quota_action"`
	Isolated      bit               `json:"isolated"`
	NoExit        bit               `json:"no_exit"`
	Trusted       bit               `json:"trusted"`
	AccessRules   *string           `json:"access_rules"`
}

// Gateway is one entry of gateway_meta. Times are epoch milliseconds.
type Gateway struct {
	PeerName           string       `json:"peer_name"`
	APIPort            uint16       `json:"api_port"`
	ProxyPort          uint16       `json:"proxy_port"`
	APITokenHash       string       `json:"api_token_hash"`
	PushTokenEncrypted model.Sealed `json:"push_token_encrypted"`
	NeedsRepair        bit          `json:"needs_repair"`
	LastSeenAt         *int64       `json:"last_seen_at"`
	LastConfigHash     *string      `json:"last_config_hash"`
	LastHealth         *string      `json:"last_health"`
	CreatedAt          int64        `json:"created_at"`
}

// User is one entry of users.
type User struct {
	Username     string     `json:"username"`
	DisplayName  string     `json:"display_name"`
	Email        *string    `json:"email"`
	PasswordHash string     `json:"password_hash"`
	Role         model.Role `json:"role"`
	Language     string     `json:"language"`
	Theme        string     `json:"theme"`
	Enabled      bit        `json:"enabled"`
	MustChange   bit        `json:"must_change_password"`
	LastLoginAt  *string    `json:"last_login_at"`
	CreatedAt    string     `json:"created_at"`
	UpdatedAt    string     `json:"updated_at"`
}

// Token is one entry of api_tokens. It holds the hash of the value, so that the
// token keeps working after a restore.
type Token struct {
	Name                  string  `json:"name"`
	TokenHash             string  `json:"token_hash"`
	Scopes                string  `json:"scopes"` // JSON list
	CreatedAt             string  `json:"created_at"`
	ExpiresAt             *string `json:"expires_at"`
	LastUsedAt            *string `json:"last_used_at"`
	MachineFingerprint    *string `json:"machine_fingerprint"`
	MachineBindingEnabled bit     `json:"machine_binding_enabled"`
	SplitTunnelOverride   *string `json:"split_tunnel_override"`
	PeerName              *string `json:"peer_name"`
	UserName              *string `json:"user_name"`
}

// Setting is one entry of settings.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func empty() Data {
	return Data{
		PeerGroups: []Group{}, Peers: []Peer{}, Routes: []Route{}, RDPRoutes: []struct{}{},
		ServiceBundles: []struct{}{}, Users: []User{}, APITokens: []Token{}, Tags: []struct{}{},
		GatewayMeta: []Gateway{}, Settings: []Setting{}, Webhooks: []struct{}{}, RouteAuth: []struct{}{},
	}
}

// jsonText is v as the text of a JSON column. v is a list of texts.
func jsonText[T ~string](v []T) string {
	b, err := json.Marshal(v)
	if err != nil || v == nil {
		return "[]"
	}
	return string(b)
}
