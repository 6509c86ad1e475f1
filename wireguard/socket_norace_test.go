//go:build !race

package wireguard

const socketRace = false
