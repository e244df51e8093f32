//! What must hold for every input.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{catalog, decode_check, decode_service, filter, json as write, syntax};
use crate::model::duration;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_we_write_we_and_others_read(value in any_json()) {
        let mut compact = Vec::new();
        write::value(&mut compact, &value);
        prop_assert_eq!(&syntax::parse_first(&compact).unwrap(), &value);
        prop_assert_eq!(&serde_json::from_slice::<Value>(&compact).unwrap(), &value);
        let pretty = write::indent(&compact);
        prop_assert_eq!(&serde_json::from_slice::<Value>(&pretty).unwrap(), &value);
        prop_assert!(!compact.iter().any(|byte| b"<>&\n".contains(byte)));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let ours = syntax::parse_first(&bytes);
        // What serde_json takes as one whole value, we take too.
        if serde_json::from_slice::<Value>(&bytes).is_ok() {
            prop_assert!(ours.is_ok());
        }
    }

    #[test]
    fn almost_json_does_not_make_the_reader_panic(text in r#"[\[\]{}:,"\\a-fnu0-9.eE+\- ]{0,60}"#) {
        let ours = syntax::parse_first(text.as_bytes());
        if serde_json::from_str::<Value>(&text).is_ok() {
            prop_assert!(ours.is_ok());
        }
    }

    #[test]
    fn no_value_makes_a_decoder_panic(name in "Name|Port|Check|Meta|TTL|Tags|Node|Service|Weights", value in any_json()) {
        let body = json!({"Name": "a", "Node": "n", "Address": "b", name: value});
        for text in [
            decode_service(&body).err().map(|error| error.to_string()),
            decode_check(&body).err().map(|error| error.to_string()),
            catalog::decode_register(&body).err().map(|error| error.to_string()),
        ] {
            prop_assert!(text.is_none_or(|text| !text.is_empty()));
        }
    }

    #[test]
    fn no_text_makes_a_filter_panic(text in r#"((Node|Meta|Checks|Service)(\.|\[")?|==|!=| in | not | is empty| and | or |[()"` é\\a-z])*"#) {
        let parsed = filter::Filter::parse(&text, filter::HEALTH);
        if let Ok(filter) = parsed {
            filter.matches(br#"{"Node":{"Meta":{"a":"b"}},"Checks":[]}"#);
        }
    }

    #[test]
    fn durations_survive_writing_and_reading(nanoseconds in 0..i64::MAX) {
        let written = duration::format(std::time::Duration::from_nanos(nanoseconds.unsigned_abs()));
        prop_assert_eq!(duration::parse(&written), Ok(nanoseconds));
    }

    #[test]
    fn no_text_makes_a_duration_panic(text in any::<String>()) {
        if let Err(error) = duration::parse(&text) {
            prop_assert!(error.to_string().starts_with("time: "));
        }
    }
}
