package move

import (
	"context"

	"waypost/internal/bench/dovecot"
)

// Dovecot is "doveadm backup" over TCP between two Dovecots.
func Dovecot() Peer {
	return Peer{Name: "dovecot", Mode: "doveadm backup, fsync=optimized", Start: func(ctx context.Context, dir string) (*Sides, error) {
		p, err := dovecot.StartPair(ctx, dir)
		if err != nil {
			return nil, err
		}
		return &Sides{Source: p.Source, Target: p.Target, Stop: p.Stop, Pass: p.Backup, Own: p.Own}, nil
	}}
}

// Missing tells why a peer cannot run here; nil if it can.
func Missing(p Peer) error {
	switch p.Name {
	case "dovecot":
		_, err := dovecot.Find()
		return err
	case "rsync":
		return findRsync()
	}
	return nil
}
