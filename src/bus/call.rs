//! One method call, and what its failure means.

use std::time::Duration;

use zbus::blocking::connection::Builder;
use zbus::blocking::{Connection, Proxy};
use zbus::export::serde::Serialize;
use zbus::message::Message;
use zbus::proxy::MethodFlags;
use zbus::zvariant::{DynamicType, OwnedValue, Value};

use super::BusError;

/// How long a peer may take to answer: the time that libdbus and sd-bus give it.
pub(super) const LIMIT: Duration = Duration::from_secs(25);

/// How long somebody may take to type a password.
const PASSWORD: Duration = Duration::from_secs(120);

/// An object on the bus and the interface of it that is meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    /// The well-known name of its owner.
    pub(super) destination: &'static str,
    /// Its path.
    pub(super) path: &'a str,
    /// The interface.
    pub(super) interface: &'a str,
}

/// A call that was not answered with a result.
#[derive(Debug)]
pub(super) struct Failure {
    method: String,
    // Boxed: it is three times as large as what a call gives.
    error: Box<zbus::Error>,
}

impl Failure {
    fn new(method: &str, error: impl Into<zbus::Error>) -> Self {
        Self { method: method.to_owned(), error: Box::new(error.into()) }
    }

    /// The name of the D-Bus error; empty where the call failed without one.
    pub(super) fn name(&self) -> &str {
        match &*self.error {
            zbus::Error::MethodError(name, ..) => name.as_str(),
            _ => "",
        }
    }

    /// Whether the error ends in one of these names: `NoSuchUnit` for `org.freedesktop.systemd1.NoSuchUnit`.
    pub(super) fn is(&self, names: &[&str]) -> bool {
        let last = self.name().rsplit('.').next().unwrap_or_default();
        names.contains(&last)
    }

    /// Whether the destination is not on the bus and could not be started either.
    ///
    /// The bus answers so itself (D-Bus Specification, "Message Bus Starting Services"), or with `org.freedesktop.systemd1`'s
    /// errors where PID 1 starts services for it.
    pub(super) fn is_absent(&self) -> bool {
        self.is(&["ServiceUnknown", "NameHasNoOwner", "NoSuchUnit", "UnitMasked", "LoadFailed"])
            || self.name().starts_with("org.freedesktop.DBus.Error.Spawn")
    }

    /// The peer's own words.
    pub(super) fn text(&self) -> String {
        match &*self.error {
            zbus::Error::MethodError(name, text, _) => text.clone().unwrap_or_else(|| name.to_string()),
            other => other.to_string(),
        }
    }
}

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        match &*failure.error {
            zbus::Error::InputOutput(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                Self::TimedOut(format!("call {}", failure.method))
            }
            zbus::Error::MethodError(..) => Self::Refused {
                name: failure.name().to_owned(),
                text: failure.text(),
                method: failure.method,
            },
            zbus::Error::InputOutput(error) => Self::NoBus(crate::error::reason(error)),
            other => Self::Refused { name: String::new(), text: other.to_string(), method: failure.method },
        }
    }
}

/// Opens the system bus; `DBUS_SYSTEM_BUS_ADDRESS` is respected.
pub(super) fn open() -> Result<Connection, BusError> {
    open_within(LIMIT)
}

/// The same for calls that may take so long.
fn open_within(limit: Duration) -> Result<Connection, BusError> {
    Builder::system().and_then(|builder| builder.method_timeout(limit).build()).map_err(|error| match error {
        zbus::Error::Connection(error, _) | zbus::Error::InputOutput(error) => {
            BusError::NoBus(crate::error::reason(&error))
        }
        other => BusError::NoBus(other.to_string()),
    })
}

/// Calls `method` of `object` and waits for the answer.
pub(super) fn call<B>(
    bus: &Connection,
    object: Object<'_>,
    method: &str,
    body: &B,
) -> Result<Message, Failure>
where
    B: Serialize + DynamicType,
{
    bus.call_method(Some(object.destination), object.path, Some(object.interface), method, body)
        .map_err(|error| Failure::new(method, error))
}

/// Calls a method that answers nothing, and lets its owner ask polkit about it: whoever sits there may be asked for a
/// password (D-Bus Specification, ALLOW_INTERACTIVE_AUTHORIZATION). Opens the bus for it. `explain` says what a failure means.
pub(super) fn call_authorized<B>(
    object: Object<'_>,
    method: &str,
    body: &B,
    explain: impl FnOnce(Failure) -> BusError,
) -> Result<(), BusError>
where
    B: Serialize + DynamicType,
{
    let bus = open_within(PASSWORD)?;
    let called = Proxy::new(&bus, object.destination, object.path, object.interface)
        .and_then(|peer| peer.call_with_flags(method, MethodFlags::AllowInteractiveAuth.into(), body));
    called.map(|_: Option<()>| ()).map_err(|error| explain(Failure::new(method, error)))
}

/// The arguments of an answer.
pub(super) fn arguments<T>(message: &Message, method: &str) -> Result<T, Failure>
where
    T: for<'d> zbus::zvariant::DynamicDeserialize<'d> + 'static,
{
    message.body().deserialize().map_err(|error| Failure::new(method, error))
}

/// Reads one property.
pub(super) fn read_property<T>(bus: &Connection, object: Object<'_>, name: &str) -> Result<T, Failure>
where
    T: TryFrom<OwnedValue>,
    T::Error: Into<zbus::Error>,
{
    let properties = Object { interface: "org.freedesktop.DBus.Properties", ..object };
    let message = call(bus, properties, "Get", &(object.interface, name))?;
    let body = message.body();
    let value: Value<'_> = body.deserialize().map_err(|error| Failure::new(name, error))?;
    let value = OwnedValue::try_from(value).map_err(|error| Failure::new(name, error))?;
    T::try_from(value).map_err(|error| Failure::new(name, error))
}
