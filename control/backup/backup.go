// Package backup writes what administrators asked for into one file that another
// server, or GateControl itself, can take up. Of ours it imports model, store and
// control/events.
package backup

import (
	"context"
	"fmt"
	"time"

	"gatecontrol/control/events"
	"gatecontrol/model"
	"gatecontrol/store"
)

// Version is that of the file format.
const Version = 4

// Options are what a Service needs.
type Options struct {
	DB  *store.DB
	Now func() time.Time
}

// Service makes backups. Its methods may be called from any goroutine.
type Service struct{ o Options }

// New returns a service.
func New(o Options) *Service { return &Service{o} }

// Export returns everything that a backup holds, as it was at one moment, and
// notes that in the activity log. Secrets stay sealed with the key of this
// server, which is not among them.
func (s *Service) Export(ctx context.Context) (Archive, error) {
	now := s.o.Now().UTC()
	a := Archive{Version: Version, CreatedAt: iso(now), Data: empty()}
	if err := s.o.DB.View(a.Data.fill); err != nil {
		return Archive{}, fmt.Errorf("backup: %w", err)
	}
	err := s.o.DB.Update(ctx, func(tx *store.Tx) error {
		return events.Append(ctx, tx, now, events.Entry{
			Type: "backup_created", Message: "a backup was created", Severity: model.SeverityInfo,
		})
	})
	if err != nil {
		return Archive{}, err
	}
	return a, nil
}

// iso and datetime are the two spellings of time in the file.
func iso(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func datetime(t time.Time) string { return t.UTC().Format(time.DateTime) }

func isoOrNull(t *time.Time) *string { return optional(t, iso) }

func datetimeOrNull(t *time.Time) *string { return optional(t, datetime) }

func optional(t *time.Time, format func(time.Time) string) *string {
	if t == nil {
		return nil
	}
	s := format(*t)
	return &s
}
