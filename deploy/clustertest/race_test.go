//go:build race

package clustertest

import "testing"

// beside has a test run beside another one, but not under the race detector: a cluster's
// processes need the machine to themselves then.
func beside(*testing.T) {}
