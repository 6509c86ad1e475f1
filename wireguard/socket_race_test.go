//go:build race

package wireguard

// socketRace: the race detector drops what is put into pools at random, so
// allocations cannot be counted.
const socketRace = true
