//! Administration of the brokers: users with passwords, and rights. librdkafka supports it, its Rust binding does not
//! expose it.
#![allow(unsafe_code, reason = "calls of librdkafka's C API, each with pointers that live until it returns")]

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use agentgov_connect::KafkaEndpoint;
use agentgov_topology::{Acl, Operation, Pattern, Resource};
use rdkafka::bindings::*;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer as _};

/// Administrator client.
pub struct Admin(BaseProducer<DefaultProducerContext>);

impl Admin {
    pub fn new(kafka: &KafkaEndpoint) -> Self {
        Self(kafka.client_config().create().unwrap())
    }

    /// Sets a SCRAM-SHA-512 password for each user.
    pub fn users(&self, users: &[(&str, &str)]) {
        let mut orders: Vec<_> = users
            .iter()
            .map(|(user, password)| {
                let user = CString::new(*user).unwrap();
                // SAFETY: copies its arguments.
                unsafe {
                    rd_kafka_UserScramCredentialUpsertion_new(
                        user.as_ptr(),
                        rd_kafka_ScramMechanism_t::RD_KAFKA_SCRAM_MECHANISM_SHA_512,
                        4096,
                        password.as_ptr(),
                        password.len(),
                        ptr::null(),
                        0,
                    )
                }
            })
            .collect();
        self.send_request(
            // SAFETY: client and requests live until the response has arrived.
            |queue| unsafe {
                rd_kafka_AlterUserScramCredentials(
                    self.0.client().native_ptr(),
                    orders.as_mut_ptr(),
                    orders.len(),
                    ptr::null(),
                    queue,
                );
            },
            // SAFETY: the result belongs to the event, which lives until this returns.
            |event| unsafe {
                let result = rd_kafka_event_AlterUserScramCredentials_result(event);
                let mut count = 0;
                let answers = rd_kafka_AlterUserScramCredentials_result_responses(result, &mut count);
                (0..count)
                    .map(|at| {
                        error(rd_kafka_AlterUserScramCredentials_result_response_error(*answers.add(at)))
                    })
                    .collect()
            },
        );
    }

    /// Grants rights.
    pub fn allow<'a>(&self, acls: impl Iterator<Item = &'a Acl>) {
        let mut orders: Vec<_> = acls.map(binding).collect();
        self.send_request(
            // SAFETY: client and requests live until the response has arrived.
            |queue| unsafe {
                rd_kafka_CreateAcls(
                    self.0.client().native_ptr(),
                    orders.as_mut_ptr(),
                    orders.len(),
                    ptr::null(),
                    queue,
                );
            },
            // SAFETY: the result belongs to the event, which lives until this returns.
            |event| unsafe {
                let result = rd_kafka_event_CreateAcls_result(event);
                let mut count = 0;
                let answers = rd_kafka_CreateAcls_result_acls(result, &mut count);
                (0..count).map(|at| error(rd_kafka_acl_result_error(*answers.add(at)))).collect()
            },
        );
    }

    /// Sends a request and panics unless every part of the response succeeded.
    fn send_request(
        &self,
        send: impl FnOnce(*mut rd_kafka_queue_t),
        errors: impl FnOnce(*mut rd_kafka_event_t) -> Vec<Option<String>>,
    ) {
        // SAFETY: queue and event are destroyed after their last use, and nothing keeps them.
        unsafe {
            let queue = rd_kafka_queue_new(self.0.client().native_ptr());
            send(queue);
            let event = rd_kafka_queue_poll(queue, 30_000);
            assert!(!event.is_null(), "the brokers did not answer");
            let failed = rd_kafka_event_error(event);
            assert_eq!(
                failed,
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                "{}",
                text(rd_kafka_event_error_string(event))
            );
            let errors: Vec<_> = errors(event).into_iter().flatten().collect();
            assert!(errors.is_empty(), "{errors:?}");
            rd_kafka_event_destroy(event);
            rd_kafka_queue_destroy(queue);
        }
    }
}

fn binding(acl: &Acl) -> *mut rd_kafka_AclBinding_t {
    use rd_kafka_AclOperation_t as Op;
    use rd_kafka_ResourceType_t as Type;
    let resource = match acl.resource {
        Resource::Topic => Type::RD_KAFKA_RESOURCE_TOPIC,
        Resource::Group => Type::RD_KAFKA_RESOURCE_GROUP,
        Resource::TransactionalId => Type::RD_KAFKA_RESOURCE_TRANSACTIONAL_ID,
    };
    let pattern = match acl.pattern {
        Pattern::Literal => rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
        Pattern::Prefixed => rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
    };
    let operation = match acl.operation {
        Operation::Read => Op::RD_KAFKA_ACL_OPERATION_READ,
        Operation::Write => Op::RD_KAFKA_ACL_OPERATION_WRITE,
        Operation::Create => Op::RD_KAFKA_ACL_OPERATION_CREATE,
        Operation::Describe => Op::RD_KAFKA_ACL_OPERATION_DESCRIBE,
        Operation::DescribeConfigs => Op::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
        Operation::AlterConfigs => Op::RD_KAFKA_ACL_OPERATION_ALTER_CONFIGS,
    };
    let (name, principal) = (CString::new(&*acl.name).unwrap(), CString::new(&*acl.principal).unwrap());
    let mut why = [0 as c_char; 512];
    // SAFETY: copies its arguments, and writes at most the buffer's size.
    let binding = unsafe {
        rd_kafka_AclBinding_new(
            resource,
            name.as_ptr(),
            pattern,
            principal.as_ptr(),
            c"*".as_ptr(),
            operation,
            rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            why.as_mut_ptr(),
            why.len(),
        )
    };
    assert!(!binding.is_null(), "{acl:?}: {}", text(why.as_ptr()));
    binding
}

fn error(error: *const rd_kafka_error_t) -> Option<String> {
    // SAFETY: a pointer of librdkafka, or null. Successful results may have an error with the code for success.
    unsafe {
        let failed =
            !error.is_null() && rd_kafka_error_code(error) != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        failed.then(|| text(rd_kafka_error_string(error)))
    }
}

fn text(text: *const c_char) -> String {
    // SAFETY: a NUL-terminated text of librdkafka.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
