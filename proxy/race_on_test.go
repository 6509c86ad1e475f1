//go:build race

package proxy

// raceEnabled tells tests that measure memory that the figures mean nothing.
const raceEnabled = true
