package proxy

import "github.com/valyala/fasthttp"

// texts are what pages say in one language. {host} is the published name, {peer}
// the name of the peer behind it, {seen} when that was seen last; {times} are those
// of access windows, in {zone}.
type texts map[string]struct{ title, text string }

// defaultLanguage is that of a client whose languages are not there.
const defaultLanguage = "en"

// languages have all the same keys.
var languages = map[string]texts{
	"en": {
		"not_found":   {"Not found", "Nothing is published under this name. Check the address, or ask the operator whether the service is switched on."},
		"misdirected": {"Misdirected request", "This connection was opened for another name. Load the page again."},
		"bad_request": {"Bad request", "The request cannot be understood."},
		"sign_in":     {"Sign in", "This service asks for a user and a password."},
		"forbidden":   {"Access denied", "This service does not answer requests from your network address."},
		"bot":         {"Access denied", "This service does not answer requests from your network."},
		"throttled":   {"Too many attempts", "There were too many attempts from your network address. Try again in a while."},
		"closed":      {"{host} is closed", "This service is not available at the moment."},
		"closed_open": {"", "It is open at these times: {times} ({zone})."},
		"closed_shut": {"", "It is closed at these times: {times} ({zone})."},
		"breaker": {"{host} is out of order",
			"The service behind it has failed several checks in a row, so it is left alone for a while. Try again later."},
		"busy": {"Too busy", "There is too much to do at the moment. Try again in a while."},
		"unreachable": {"{host} cannot be reached",
			"The gateway works, but the service behind it does not answer. Check that the service is running."},
		"unreachable_peer": {"{host} cannot be reached",
			"The gateway works, but {peer} does not answer. Check that the device is on, connected to the tunnel, and that the service is running."},
		"peer_away": {"{peer} is not connected",
			"{host} is on {peer}, which was connected to the gateway last on {seen}. Check that the device is on and connected to the tunnel."},
		"peer_never_seen": {"{peer} is not connected",
			"{host} is on {peer}, which has not been connected to the gateway yet. Check that the device is on and connected to the tunnel."},
		"unreachable_gateway": {"{host} cannot be reached",
			"{host} is behind the home gateway {peer}, which does not answer. Check that it is on, and that its software is running."},
		"gateway_away": {"{peer} is not connected",
			"{host} is behind the home gateway {peer}, which was connected to this server last on {seen}. Check that it is on and reaches the internet."},
		"gateway_never_seen": {"{peer} is not connected",
			"{host} is behind the home gateway {peer}, which has not been connected to this server yet. Check that it is set up, and on."},
		"silent":       {"{host} does not answer", "The gateway waited for the service in vain. Check that it is running and not overloaded."},
		"internal":     {"Something went wrong", "The request failed inside the gateway. The log has the details under the request number below."},
		"this_service": {"This service", ""},
		"error":        {"Error", ""},
		"request":      {"request", ""},
		"time":         {"", "2 January 2006, 15:04 UTC"},
	},
	"de": {
		"not_found":   {"Nicht gefunden", "Unter diesem Namen ist nichts veröffentlicht. Prüfen Sie die Adresse oder fragen Sie den Betreiber, ob der Dienst eingeschaltet ist."},
		"misdirected": {"Falsch zugestellt", "Diese Verbindung wurde für einen anderen Namen geöffnet. Laden Sie die Seite neu."},
		"bad_request": {"Ungültige Anfrage", "Die Anfrage ist nicht zu verstehen."},
		"sign_in":     {"Anmelden", "Dieser Dienst verlangt Benutzer und Passwort."},
		"forbidden":   {"Zugriff verweigert", "Dieser Dienst beantwortet keine Anfragen von Ihrer Netzadresse."},
		"bot":         {"Zugriff verweigert", "Dieser Dienst beantwortet keine Anfragen aus Ihrem Netz."},
		"throttled":   {"Zu viele Versuche", "Von Ihrer Netzadresse kamen zu viele Versuche. Versuchen Sie es später noch einmal."},
		"closed":      {"{host} ist geschlossen", "Dieser Dienst ist im Moment nicht verfügbar."},
		"closed_open": {"", "Er ist zu diesen Zeiten offen: {times} ({zone})."},
		"closed_shut": {"", "Er ist zu diesen Zeiten geschlossen: {times} ({zone})."},
		"breaker": {"{host} ist außer Betrieb",
			"Der Dienst dahinter hat mehrere Prüfungen nacheinander nicht bestanden und wird eine Weile in Ruhe gelassen. Versuchen Sie es später noch einmal."},
		"busy": {"Überlastet", "Im Moment ist zu viel zu tun. Versuchen Sie es später noch einmal."},
		"unreachable": {"{host} ist nicht erreichbar",
			"Das Gateway arbeitet, aber der Dienst dahinter antwortet nicht. Prüfen Sie, ob der Dienst läuft."},
		"unreachable_peer": {"{host} ist nicht erreichbar",
			"Das Gateway arbeitet, aber {peer} antwortet nicht. Prüfen Sie, ob das Gerät eingeschaltet und mit dem Tunnel verbunden ist und der Dienst läuft."},
		"peer_away": {"{peer} ist nicht verbunden",
			"{host} liegt auf {peer}; dieses Gerät war zuletzt am {seen} mit dem Gateway verbunden. Prüfen Sie, ob es eingeschaltet und mit dem Tunnel verbunden ist."},
		"peer_never_seen": {"{peer} ist nicht verbunden",
			"{host} liegt auf {peer}; dieses Gerät war noch nicht mit dem Gateway verbunden. Prüfen Sie, ob es eingeschaltet und mit dem Tunnel verbunden ist."},
		"unreachable_gateway": {"{host} ist nicht erreichbar",
			"{host} liegt hinter dem Heim-Gateway {peer}, das nicht antwortet. Prüfen Sie, ob es eingeschaltet ist und seine Software läuft."},
		"gateway_away": {"{peer} ist nicht verbunden",
			"{host} liegt hinter dem Heim-Gateway {peer}, das zuletzt am {seen} mit diesem Server verbunden war. Prüfen Sie, ob es eingeschaltet ist und das Internet erreicht."},
		"gateway_never_seen": {"{peer} ist nicht verbunden",
			"{host} liegt hinter dem Heim-Gateway {peer}, das noch nicht mit diesem Server verbunden war. Prüfen Sie, ob es eingerichtet und eingeschaltet ist."},
		"silent":       {"{host} antwortet nicht", "Das Gateway hat vergeblich auf den Dienst gewartet. Prüfen Sie, ob er läuft und nicht überlastet ist."},
		"internal":     {"Etwas ist schiefgegangen", "Die Anfrage ist im Gateway gescheitert. Das Protokoll hat Einzelheiten unter der Nummer unten."},
		"this_service": {"Dieser Dienst", ""},
		"error":        {"Fehler", ""},
		"request":      {"Anfrage", ""},
		"time":         {"", "02.01.2006, 15:04 UTC"},
	},
}

// keyOf is what a page of a status says where nothing more is known.
func keyOf(status int) string {
	switch status {
	case fasthttp.StatusBadRequest:
		return "bad_request"
	case fasthttp.StatusUnauthorized:
		return "sign_in"
	case fasthttp.StatusForbidden:
		return "forbidden"
	case fasthttp.StatusNotFound:
		return "not_found"
	case fasthttp.StatusMisdirectedRequest:
		return "misdirected"
	case fasthttp.StatusTooManyRequests:
		return "throttled"
	case fasthttp.StatusBadGateway:
		return "unreachable"
	case fasthttp.StatusServiceUnavailable:
		return "busy"
	case fasthttp.StatusGatewayTimeout:
		return "silent"
	}
	return "internal"
}
