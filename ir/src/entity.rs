//! Ids as `u32` newtypes over one owning map.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An id that indexes a [`PrimaryMap`].
pub trait EntityId: Copy + Eq + Ord + fmt::Debug + fmt::Display {
    /// The id of entry `index`.
    fn new(index: usize) -> Self;
    /// The entry this id names.
    fn index(self) -> usize;
}

/// Declares a `u32` id newtype that prints as `<prefix><number>`.
#[macro_export]
macro_rules! entity_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u32);
        impl $crate::entity::EntityId for $name {
            fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("an id space holds fewer than 2^32 entries"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

/// A growing arena whose entries are named by `K`.
#[derive(Clone, PartialEq, Debug)]
pub struct PrimaryMap<K, V> {
    entries: Vec<V>,
    key: PhantomData<K>,
}

impl<K, V> Default for PrimaryMap<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), key: PhantomData }
    }
}

impl<K: EntityId, V> PrimaryMap<K, V> {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds an entry and returns its id.
    pub fn push(&mut self, value: V) -> K {
        self.entries.push(value);
        K::new(self.entries.len() - 1)
    }
    /// The entry, or `None` when the id is not of this map.
    pub fn get(&self, id: K) -> Option<&V> {
        self.entries.get(id.index())
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// All ids in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = K> + use<K, V> {
        (0..self.entries.len()).map(K::new)
    }
    /// Ids and entries in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &V)> {
        self.entries.iter().enumerate().map(|(i, v)| (K::new(i), v))
    }
    /// Entries in order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.entries.iter()
    }
    /// Entries in order, mutable.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> {
        self.entries.iter_mut()
    }
}

impl<K: EntityId, V: PartialEq> PrimaryMap<K, V> {
    /// The id of an equal entry, added if there is none.
    pub fn intern(&mut self, value: V) -> K {
        match self.entries.iter().position(|v| *v == value) {
            Some(i) => K::new(i),
            None => self.push(value),
        }
    }
}

impl<K: EntityId, V> Index<K> for PrimaryMap<K, V> {
    type Output = V;
    fn index(&self, id: K) -> &V {
        &self.entries[id.index()]
    }
}

impl<K: EntityId, V> IndexMut<K> for PrimaryMap<K, V> {
    fn index_mut(&mut self, id: K) -> &mut V {
        &mut self.entries[id.index()]
    }
}

impl<K, V> FromIterator<V> for PrimaryMap<K, V> {
    fn from_iter<I: IntoIterator<Item = V>>(iter: I) -> Self {
        Self { entries: iter.into_iter().collect(), key: PhantomData }
    }
}
