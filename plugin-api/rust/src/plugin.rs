//! The table of a handler.

/// Makes a [`Handler`](crate::Handler) the handler of this shared object. Once, in the crate's root or
/// any module.
///
/// ```
/// # use lope::*;
/// # struct Resize;
/// # impl Handler for Resize {
/// #     fn new(_: &Setup) -> Result<Self, SetupError> { Ok(Resize) }
/// #     fn handle(&mut self, _: &Message) -> Result<Outcome, Failure> { Ok(Outcome::Ack) }
/// # }
/// lope::plugin! {
///     name: "resize",
///     version: env!("CARGO_PKG_VERSION"),
///     description: "makes thumbnails",
///     options: [
///         required("folder", Text, "where to write"),
///         defaulted("width", UInt, "640", "pixels"),
///         secret required("store.password", Text, "of the store"),
///         defaulted("tags.*", Text, "", "a list: see Setup::option_list()"),
///     ],
///     handler: Resize,
/// }
/// # fn main() {}
/// ```
///
/// Kinds of options are `Text`, `Int`, `UInt`, `Double` and `Bool`; the value of a `secret` one is
/// never shown. Options that are not in the list are refused by the host. Without `options` the
/// handler takes any; `description` may be left out too.
#[macro_export]
macro_rules! plugin {
    (
        name: $name:expr,
        version: $version:expr,
        $(description: $description:expr,)?
        $(options: [$($($word:ident)+ ($($option:tt)*)),* $(,)?],)?
        handler: $handler:ty $(,)?
    ) => {
        /// What Lope loads.
        #[no_mangle]
        #[allow(non_upper_case_globals)]
        pub static lope_plugin_v1: $crate::abi::lope_plugin = {
            #[allow(unused_imports)]
            use $crate::edge::Lacks as _;

            unsafe extern "C" fn create(
                host: *const $crate::abi::lope_host,
                handler: *mut *mut $crate::abi::lope_handler,
            ) -> $crate::abi::lope_status {
                $crate::edge::create::<$handler>(host, lope_plugin_v1.options, handler)
            }

            $crate::abi::lope_plugin {
                struct_size: ::std::mem::size_of::<$crate::abi::lope_plugin>() as u32,
                abi_minor: 0,
                name: $crate::__text!($name),
                version: $crate::__text!($version),
                description: $crate::__text!($($description)?),
                options: $crate::__options!($([$($($word)+ ($($option)*)),*])?),
                create: ::std::option::Option::Some(create),
                destroy: ::std::option::Option::Some($crate::edge::destroy::<$handler>),
                handle: ::std::option::Option::Some($crate::edge::handle::<$handler>),
                handle_batch: <$crate::edge::Has<$handler>>::HANDLE_BATCH,
                flush: <$crate::edge::Has<$handler>>::FLUSH,
            }
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __text {
    () => {
        ::std::ptr::null()
    };
    ($text:expr) => {
        ::std::concat!($text, "\0").as_ptr() as *const ::std::os::raw::c_char
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __options {
    () => {
        ::std::ptr::null()
    };
    ([$($($word:ident)+ ($($option:tt)*)),*]) => {{
        const TABLE: &[$crate::abi::lope_option] = &[
            $($crate::__option!($($word)+ ($($option)*)),)*
            $crate::abi::lope_option {
                name: ::std::ptr::null(),
                default_value: ::std::ptr::null(),
                help: ::std::ptr::null(),
                kind: 0,
                flags: 0,
                reserved: [::std::ptr::null(); 2],
            },
        ];
        TABLE.as_ptr()
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __option {
    (secret $word:ident $option:tt) => {
        $crate::abi::lope_option {
            flags: $crate::abi::LOPE_OPTION_SECRET,
            ..$crate::__option!($word $option)
        }
    };
    (required ($name:expr, $kind:ident, $help:expr)) => {
        $crate::abi::lope_option {
            name: $crate::__text!($name),
            default_value: ::std::ptr::null(),
            help: $crate::__text!($help),
            kind: $crate::__kind!($kind),
            flags: 0,
            reserved: [::std::ptr::null(); 2],
        }
    };
    (defaulted ($name:expr, $kind:ident, $default:expr, $help:expr)) => {
        $crate::abi::lope_option {
            default_value: $crate::__text!($default),
            ..$crate::__option!(required ($name, $kind, $help))
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __kind {
    (Text) => {
        $crate::abi::LOPE_TEXT
    };
    (Int) => {
        $crate::abi::LOPE_INT64
    };
    (UInt) => {
        $crate::abi::LOPE_UINT64
    };
    (Double) => {
        $crate::abi::LOPE_DOUBLE
    };
    (Bool) => {
        $crate::abi::LOPE_BOOL
    };
}
