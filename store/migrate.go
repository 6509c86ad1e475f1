package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"gatecontrol/model"
)

// preMigration is added to the name of a file for the copy that is made before
// its schema changes.
const preMigration = ".before-upgrade"

// step brings a file from one schema to the next. Steps are never edited once
// released; testdata holds a file of every released schema.
type step func(*bbolt.Tx) error

// The schema of a file is the number of steps that it has been through.
var (
	intentSteps  = []step{createIntent, addGroups, addCertificates, addRouteCounters, addPictures, addRouteChecks, addWindows}
	historySteps = []step{createHistory}
)

// addGroups makes room for groups of peers. No peer is in one yet, so there is
// nothing to index. A new file has the buckets from its first step.
func addGroups(tx *bbolt.Tx) error {
	for _, name := range []string{"groups", "groups.name", "peers.group"} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// addCertificates makes room for certificates. There are none yet.
func addCertificates(tx *bbolt.Tx) error {
	return create(tx, []bucketed{&Certificates, &DNSZones, &CertItems})
}

// addRouteCounters makes room for what is counted of routes.
func addRouteCounters(tx *bbolt.Tx) error {
	return create(tx, []bucketed{&RouteCounters})
}

// addPictures makes room for pictures. No route has one yet.
func addPictures(tx *bbolt.Tx) error {
	return create(tx, []bucketed{&Pictures})
}

// addRouteChecks makes room for what checks of routes find. No route is monitored
// yet, so there is nothing to index, and no circuit breaker was ever anything but
// closed: that is not said of each any more.
func addRouteChecks(tx *bbolt.Tx) error {
	if err := create(tx, []bucketed{&RouteChecks}); err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(indexBucket(Routes.name, "monitored")); err != nil {
		return err
	}
	type breaker struct {
		Enabled   bool          `json:"enabled"`
		Threshold int           `json:"threshold"`
		Timeout   time.Duration `json:"timeout"`
	}
	changed := make(map[string][]byte)
	routes := tx.Bucket([]byte(Routes.name))
	if err := routes.ForEach(func(key, raw []byte) error {
		var r struct {
			Web struct{ Breaker json.RawMessage }
		}
		var b breaker
		if json.Unmarshal(raw, &r) != nil || json.Unmarshal(r.Web.Breaker, &b) != nil {
			return nil // no options, or what cannot be read
		}
		now, err := json.Marshal(b)
		changed[string(key)] = bytes.Replace(raw, r.Web.Breaker, now, 1)
		return err
	}); err != nil {
		return err
	}
	for key, raw := range changed {
		if err := routes.Put([]byte(key), raw); err != nil {
			return err
		}
	}
	return nil
}

// addWindows makes room for the index of what has access windows. Nothing has any
// yet; an older program would not see them, and let in whom they keep out.
func addWindows(tx *bbolt.Tx) error {
	for _, table := range []string{Peers.name, Routes.name} {
		if _, err := tx.CreateBucketIfNotExists(indexBucket(table, "windows")); err != nil {
			return err
		}
	}
	return nil
}

// SchemaVersion is the schema of the intent file that this program writes.
func SchemaVersion() int { return len(intentSteps) }

func (db *DB) migrate() error {
	// What is refused is not to be upgraded before.
	if _, err := schemaOf(db.intent, intentSteps); err != nil {
		return err
	}
	if _, err := schemaOf(db.history, historySteps); err != nil {
		return err
	}
	if err := db.checkSealer(); err != nil {
		return err
	}
	if err := db.migrateFile(db.intent, intentSteps); err != nil {
		return err
	}
	if err := db.migrateFile(db.history, historySteps); err != nil {
		return err
	}
	if err := checkBuckets(db.intent, intentTables()); err != nil {
		return err
	}
	return checkBuckets(db.history, historyTables())
}

// schemaOf returns the schema of a file, and refuses one that steps do not reach.
func schemaOf(b *bbolt.DB, steps []step) (have int, err error) {
	if err := view(b, func(tx *Tx) error { have = int(tx.metaNumber(schemaKey)); return nil }); err != nil {
		return 0, err
	}
	if have > len(steps) {
		return 0, model.Failure(model.KindUnavailable, "%s was written by a newer version (schema %d, this one knows %d); run that version", b.Path(), have, len(steps))
	}
	return have, nil
}

// migrateFile takes the missing steps in one transaction, so that an
// interrupted upgrade starts over, after a copy of what was there.
func (db *DB) migrateFile(b *bbolt.DB, steps []step) error {
	have, err := schemaOf(b, steps)
	if err != nil || have == len(steps) {
		return err
	}
	if have > 0 {
		if err := copyFile(b, b.Path()+preMigration); err != nil {
			return err
		}
		db.log.Info("upgrading the store", "file", b.Path(), "from", have, "to", len(steps), "copy", b.Path()+preMigration)
	}
	err = b.Update(func(btx *bbolt.Tx) error {
		for n := have; n < len(steps); n++ {
			if err := steps[n](btx); err != nil {
				return fmt.Errorf("upgrade of %s to schema %d: %w", b.Path(), n+1, err)
			}
		}
		return (&Tx{b: btx}).setMetaNumber(schemaKey, uint64(len(steps)))
	})
	return writeError(err)
}
