package model

// MetricsKey is the setting that opens the metrics, as a backup spells it: true or
// false, which is what it is without one.
const MetricsKey = "metrics_enabled"
