package backup

import (
	"strings"

	"gatecontrol/model"
	"gatecontrol/store"
)

// passing are the items of certificates that are of no use elsewhere or later:
// what was tried, and staples.
var passing = []string{"attempts/", "ocsp/", "last_clean"}

// fillCertificates reads everything about certificates. Keys stay sealed.
func (d *Data) fillCertificates(tx *store.Tx) error {
	if err := each(store.Certificates.All(tx), func(c *model.Certificate) error {
		d.Certificates = append(d.Certificates, Certificate{c.Names, c.Chain, c.Key, datetime(c.CreatedAt)})
		return nil
	}); err != nil {
		return err
	}
	if err := each(store.DNSZones.All(tx), func(z *model.DNSZone) error {
		d.DNSZones = append(d.DNSZones, DNSZone{z.Zone, z.Provider, z.Settings, z.Secrets, bit(z.Wildcard), datetime(z.UpdatedAt)})
		return nil
	}); err != nil {
		return err
	}
	return each(store.CertItems.All(tx), func(i *store.CertItem) error {
		for _, prefix := range passing {
			if strings.HasPrefix(i.Key, prefix) {
				return nil
			}
		}
		d.CertificateItems = append(d.CertificateItems, CertItem{i.Key, i.Value, datetime(i.Modified)})
		return nil
	})
}
