package api

import (
	"context"

	"gatecontrol/model"
)

// operations is the table: every operation, who may call it, what it is counted
// against, and what answers. Paths under /api/v1 are served under /api as well.
func (s *Server) operations() []*operation {
	const v1 = "/api/v1"
	peers, routes := scoped(model.ScopePeers), scoped(model.ScopeRoutes)
	noScope := scoped() // no scope of its own opens it
	settings := scoped(model.ScopeSettings)
	logs, system := scoped(model.ScopeLogs), scoped(model.ScopeSystem)
	return []*operation{
		// Pages and signing in.
		op("GET", "/{$}", "Go to the right page", loginOnly().whileMustChange(), nil, s.home),
		op("GET", loginPath, "Sign-in form", public(), nil, s.loginPage),
		op("POST", loginPath, "Sign in", public(), s.login, s.signIn),
		op("POST", "/logout", "Sign out", loginOnly().whileMustChange(), nil, s.signOut),
		op("GET", dashboardPath, "Overview for people", loginOnly().whileMustChange(), nil, s.dashboard),
		op("POST", dashboardPath+"/password", "Change the own password by form", loginOnly().whileMustChange(), s.api, s.passwordForm),
		op("GET", "/health", "Whether this server works", public(), nil, s.health),

		op("GET", "/branding/{file}", "A picture of a sign-in page", public(), nil, s.picture),
		op("GET", "/route-auth/static/branding/{file}", "A picture of a sign-in page, where that page looks for it", public(), nil, s.picture),

		op("GET", metricsPath, "Metrics for Prometheus", system, s.scrapes, s.metrics).where(s.Settings.Metrics),

		op("GET", v1+"/openapi.json", "This document", everybody(), s.api, s.getDocument),
		op("GET", v1+"/session", "Who is signed in", loginOnly().whileMustChange(), s.api, s.getSession),
		op("PUT", v1+"/settings/password", "Change the own password", loginOnly().whileMustChange(), s.api, s.changePassword),
		op("GET", v1+"/settings/exit", "What peers reach through this server", settings, s.api, s.getExit),
		op("PUT", v1+"/settings/exit", "Change what peers reach through this server", settings, s.api, s.setExit),
		op("GET", v1+"/settings/route-block-default", "What strangers get of a route that is only for the tunnel", noScope, s.api, s.getBlockDefault),
		op("PUT", v1+"/settings/route-block-default", "Change what strangers get of a route that is only for the tunnel", noScope, s.api, s.setBlockDefault),
		op("GET", v1+"/settings/monitoring", "How monitored routes are checked", settings, s.api, s.getMonitoring),
		op("PUT", v1+"/settings/monitoring", "Change how monitored routes are checked", settings, s.api, s.setMonitoring),
		op("GET", v1+"/settings/metrics", "Whether metrics can be read", noScope, s.api, s.getMetricsSettings),
		op("PUT", v1+"/settings/metrics", "Change whether metrics can be read", noScope, s.api, s.setMetricsSettings),
		op("GET", v1+"/settings/backup", "Save everything as a file", scoped(model.ScopeBackup).secret(), s.api, s.getBackup),

		op("GET", v1+"/tokens", "List tokens", loginOnly(), s.api, s.listTokens),
		op("POST", v1+"/tokens", "Create a token", loginOnly(), s.api, s.createToken).creates(),
		op("DELETE", v1+"/tokens/{id}", "Revoke a token", loginOnly(), s.api, s.deleteToken),

		op("GET", v1+"/peers", "List peers", peers, s.api, s.listPeers),
		op("POST", v1+"/peers", "Create a peer", peers, s.api, s.createPeer).creates(),
		op("POST", v1+"/peers/batch", "Enable, disable or delete several peers", peers, s.api, s.batchPeers),
		op("GET", v1+"/peers/{id}", "Get a peer", peers, s.api, s.getPeer),
		op("PUT", v1+"/peers/{id}", "Change a peer", peers, s.api, s.updatePeer),
		op("DELETE", v1+"/peers/{id}", "Delete a peer", peers, s.api, s.deletePeer),
		op("PUT", v1+"/peers/{id}/toggle", "Enable or disable a peer", peers, s.api, s.togglePeer),
		op("PATCH", v1+"/peers/{id}/hostname", "Give a peer a host name", peers, s.api, s.setHostname),
		op("GET", v1+"/peers/{id}/access-rules", "When a peer can be used", peers, s.api, s.listPeerWindows),
		op("POST", v1+"/peers/{id}/access-rules", "Say when a peer can be used, or when not", peers, s.api, s.addPeerWindow).creates(),
		op("PUT", v1+"/peers/{id}/access-rules/{rule}", "Replace such a rule of a peer", peers, s.api, s.changePeerWindow),
		op("DELETE", v1+"/peers/{id}/access-rules/{rule}", "Delete such a rule of a peer", peers, s.api, s.removePeerWindow),
		op("GET", v1+"/peers/{id}/config", "WireGuard config of a peer", peers.secret(), s.api, s.peerConfig),
		op("GET", v1+"/peers/{id}/qr", "WireGuard config of a peer as QR code", peers.secret(), s.api, s.peerQR),

		op("GET", v1+"/peer-groups", "List groups of peers", noScope, s.api, s.listGroups),
		op("POST", v1+"/peer-groups", "Create a group of peers", noScope, s.api, s.createGroup).creates(),
		op("PUT", v1+"/peer-groups/{id}", "Change a group of peers", noScope, s.api, s.updateGroup),
		op("DELETE", v1+"/peer-groups/{id}", "Delete a group of peers", noScope, s.api, s.deleteGroup),

		op("GET", v1+"/routes", "List routes", routes, s.api, s.listRoutes),
		op("POST", v1+"/routes", "Create a route", routes, s.api, s.createRoute).creates(),
		op("POST", v1+"/routes/batch", "Enable, disable or delete several routes", routes, s.api, s.batchRoutes),
		op("POST", v1+"/routes/check-dns", "Where a domain leads, and whether that is this server", routes, s.api, s.checkDNS),
		op("POST", v1+"/routes/explain", "What would happen to a request, and why", routes, s.api, s.explainRoute),
		op("GET", v1+"/routes/peers", "Peers that a route can lead to", routes, s.api, s.routePeers),
		op("GET", v1+"/routes/{id}", "Get a route", routes, s.api, s.getRoute),
		op("PUT", v1+"/routes/{id}", "Change a route", routes, s.api, s.updateRoute),
		op("DELETE", v1+"/routes/{id}", "Delete a route", routes, s.api, s.deleteRoute),
		op("PUT", v1+"/routes/{id}/toggle", "Enable or disable a route", routes, s.api, s.toggleRoute),
		op("POST", v1+"/routes/{id}/check", "Check now whether the service behind a route is up", routes, s.api, s.checkRoute),
		op("POST", v1+"/routes/{id}/circuit-breaker/reset", "Close the circuit breaker of a route", routes, s.api, s.resetBreaker),
		op("POST", v1+"/routes/{id}/branding/logo", "Set the logo of the sign-in page of a route", routes, s.uploads, s.setLogo),
		op("DELETE", v1+"/routes/{id}/branding/logo", "Delete the logo of the sign-in page of a route", routes, s.api, s.deleteLogo),
		op("POST", v1+"/routes/{id}/branding/bg-image", "Set the background image of the sign-in page of a route", routes, s.uploads, s.setBackground),
		op("DELETE", v1+"/routes/{id}/branding/bg-image", "Delete the background image of the sign-in page of a route", routes, s.api, s.deleteBackground),
		op("GET", v1+"/routes/{id}/access-rules", "When a route can be used", routes, s.api, s.listRouteWindows),
		op("POST", v1+"/routes/{id}/access-rules", "Say when a route can be used, or when not", routes, s.api, s.addRouteWindow).creates(),
		op("PUT", v1+"/routes/{id}/access-rules/{rule}", "Replace such a rule of a route", routes, s.api, s.changeRouteWindow),
		op("DELETE", v1+"/routes/{id}/access-rules/{rule}", "Delete such a rule of a route", routes, s.api, s.removeRouteWindow),
		op("GET", v1+"/routes/{id}/trace", "Last requests to a route", routes, s.api, s.traceRoute),

		op("GET", v1+"/certificates", "Certificates of all names that are served, and those that were brought", routes, s.api, s.listCertificates),
		op("POST", v1+"/certificates", "Bring a certificate", routes, s.api, s.uploadCertificate).creates(),
		op("DELETE", v1+"/certificates/{id}", "Delete a certificate that was brought", routes, s.api, s.deleteCertificate),
		op("POST", v1+"/certificates/{domain}/renew", "Have a certificate renewed now", routes, s.api, s.renewCertificate),
		op("POST", v1+"/certificates/preflight", "Whether an authority would certify a name, without asking it", routes, s.api, s.preflight),
		op("GET", v1+"/certificates/root.pem", "Certificate of the internal authority, for devices to trust", everybody(), s.api, s.rootCertificate),
		op("GET", v1+"/certificates/dns-zones", "DNS zones whose records prove names", settings, s.api, s.listZones),
		op("PUT", v1+"/certificates/dns-zones/{zone}", "Set the provider of a DNS zone", settings, s.api, s.setZone),
		op("DELETE", v1+"/certificates/dns-zones/{zone}", "Forget the provider of a DNS zone", settings, s.api, s.deleteZone),

		op("GET", v1+"/dashboard/stats", "Numbers of the overview", scoped(), s.api, s.stats),
		op("GET", v1+"/logs/activity", "Activity log", logs, s.api, s.listActivity),
		op("GET", v1+"/logs/access", "Access log", logs, s.api, s.listAccess),
		op("GET", v1+"/logs/recent", "Newest of the activity log", logs, s.api, s.recentActivity),
		op("GET", v1+"/system/conditions", "Lasting states that a person should know of", system, s.api, s.listConditions),
		op("GET", v1+"/system/dns/status", "Internal zone", system, s.api, s.getDNSStatus),
		op("GET", v1+"/system/dns/records", "Records of the internal zone", system, s.api, s.dnsRecords),
		op("GET", v1+"/wg/status", "Tunnel", system, s.api, s.wgStatus),
		op("GET", v1+"/caddy/status", "Proxy", system, s.api, s.proxyStatus),
		op("POST", v1+"/caddy/reload", "Apply the stored routes anew", system, s.api, s.proxyReload),
	}
}

// home sends whoever is signed in to the overview; others get to the sign-in
// form like from any page.
func (s *Server) home(context.Context, *request, *none) (responder, error) {
	return redirect(dashboardPath), nil
}

func (s *Server) getDocument(context.Context, *request, *none) (responder, error) {
	return file{typ: "application/openapi+json", body: s.document}, nil
}
