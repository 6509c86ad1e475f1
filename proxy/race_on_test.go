//go:build race

package proxy

// raceEnabled tells tests that measure memory or speed that the figures mean nothing.
const raceEnabled = true
